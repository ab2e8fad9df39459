"use strict";
// Pictures: a table of a few (a board's), or the pair viewer and the sheet of all (a run's).
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const MINUS = "\u2212";
  const steps = (count) => `${count} step${count === 1 ? "" : "s"}`;
  const told = (value) => value === null ? "\u2013" : String(Number(value.toPrecision(3))).replace("-", MINUS);
  const plus = (value) => (value > 0 ? "+" : "") + told(value);
  const picture = (source, alt) => {
    if (!source) return make("div", { class: "nothing" }, "no picture");
    return make("img", { class: data.tiny ? "thumb tiny" : "thumb", src: source, alt, loading: "lazy", decoding: "async" });
  };

  // ---- A board's gallery: the slider changes every picture's step count.
  const gallerySteps = get("gallery-steps");
  if (gallerySteps) {
    const show = () => {
      const i = Number(gallerySteps.value);
      get("gallery-shown").textContent = steps(data.steps[i]);
      gallerySteps.setAttribute("aria-valuetext", steps(data.steps[i]));
      for (const cell of document.querySelectorAll("#gallery td[data-prompt]")) {
        const source = data.gallery[Number(cell.dataset.prompt)][Number(cell.dataset.column)][i];
        cell.replaceChildren(picture(source, `${cell.dataset.entry}, ${steps(data.steps[i])}`));
      }
    };
    gallerySteps.addEventListener("input", show);
    show();
  }

  // ---- A run's viewer: the same prompt and seed from every checkpoint.
  const pair = get("pair");
  if (!pair) return;
  const at = { prompt: 0, seed: 0, step: 0 };
  let order = data.prompts.map((_, i) => i);
  const source = (c, s, p, k) => {
    const name = data.pictures[c][s][p][k];
    return name && `pictures/${name.slice(0, 2)}/${name}.webp`;
  };
  // A set-level measure has one value for all seeds.
  const value = (m, c, s, p, k) => {
    const own = data.measures[m].values[c][s][p];
    return own[Math.min(k, own.length - 1)];
  };
  const mean = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;
  const difference = (m, c, s, p) => {
    const own = data.measures[m].values[c][s][p], base = data.measures[m].values[data.reference][s][p];
    const pairs = own.map((one, k) => (one === null || base[k] === null ? null : one - base[k])).filter((one) => one !== null);
    return pairs.length ? (data.measures[m].sign || 1) * mean(pairs) : null;
  };

  const choosePrompt = get("prompt"), chooseSeed = get("seed"), chooseSteps = get("steps"), chooseOrder = get("order");
  const label = (p) => `${data.prompts[p].id}: ${data.prompts[p].text.slice(0, 90)}`;
  const search = get("search");
  const listed = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (p) => {
      const one = data.prompts[p], text = `${one.id} ${one.text} ${one.tags.join(" ")}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    return order.filter(fits);
  };
  let shown = [];
  const list = () => {
    shown = listed();
    choosePrompt.replaceChildren(...shown.map((p) => make("option", { value: p }, label(p))));
    get("prompts-found").textContent = `${shown.length} of ${data.prompts.length}`;
    if (shown.length && !shown.includes(at.prompt)) at.prompt = shown[0];
    show();
    sheet();
  };
  const sort = () => {
    order = data.prompts.map((_, i) => i);
    const [m, c] = chooseOrder.value.split("-").map(Number);
    if (chooseOrder.value !== "") {
      const moved = new Map(order.map((p) => [p, difference(m, c, at.step, p)]));
      order.sort((a, b) => (moved.get(a) ?? Infinity) - (moved.get(b) ?? Infinity) || a - b);
      at.prompt = order[0];
    }
    list();
  };
  const scores = (c) => {
    const body = make("tbody");
    data.measures.forEach((measure, m) => {
      const own = value(m, c, at.step, at.prompt, at.seed);
      const base = value(m, data.reference, at.step, at.prompt, at.seed);
      const gap = c !== data.reference && own !== null && base !== null ? own - base : null;
      const side = gap === null || !measure.sign || gap === 0 ? "" : gap * measure.sign > 0 ? "up" : "down";
      body.append(make("tr", {}, make("th", { scope: "row" }, measure.name), make("td", { class: "num" }, told(own)),
        make("td", { class: `num ${side}` }, gap === null ? "" : plus(gap))));
    });
    return make("table", {}, body);
  };
  const show = () => {
    const i = shown.indexOf(at.prompt);
    get("previous").disabled = i <= 0;
    get("next").disabled = i < 0 || i >= shown.length - 1;
    choosePrompt.value = String(at.prompt);
    chooseSeed.value = String(at.seed);
    chooseSteps.value = String(at.step);
    chooseSteps.setAttribute("aria-valuetext", steps(data.steps[at.step]));
    get("steps-shown").textContent = steps(data.steps[at.step]);
    const prompt = data.prompts[at.prompt];
    get("prompt-text").textContent = prompt.text;
    pair.replaceChildren(...data.checkpoints.map((name, c) => {
      const made = source(c, at.step, at.prompt, at.seed);
      const alt = `${name}, ${steps(data.steps[at.step])}, seed ${at.seed}: ${prompt.text}`;
      return make("figure", {}, make("figcaption", {}, name), picture(made, alt), scores(c));
    }));
  };
  const go = (by) => {
    const i = shown.indexOf(at.prompt) + by;
    if (i >= 0 && i < shown.length) { at.prompt = shown[i]; show(); }
  };
  get("previous").addEventListener("click", () => go(-1));
  get("next").addEventListener("click", () => go(1));
  choosePrompt.addEventListener("change", () => { at.prompt = Number(choosePrompt.value); show(); });
  chooseSeed.addEventListener("change", () => { at.seed = Number(chooseSeed.value); show(); sheet(); });
  chooseSteps.addEventListener("input", () => {
    at.step = Number(chooseSteps.value);
    show();
    sheet();
  });
  chooseSteps.addEventListener("change", () => { if (chooseOrder.value !== "") { const kept = at.prompt; sort(); at.prompt = kept; show(); } });
  chooseOrder.addEventListener("change", sort);
  search.addEventListener("input", list);

  // ---- All prompts at this step count and seed; a click opens one in the viewer. Off-screen rows are made when needed.
  const place = get("sheet"), more = get("more"), BATCH = 120;
  let drawn = 0;
  const cell = (p) => {
    const row = make("span", { class: "row" });
    data.checkpoints.forEach((name, c) => row.append(picture(source(c, at.step, p, at.seed), name)));
    const button = make("button", { class: "cell", type: "button" }, row, make("span", { class: "text" }, label(p)));
    button.addEventListener("click", () => {
      at.prompt = p;
      show();
      get("viewer").scrollIntoView({ block: "start" });
      choosePrompt.focus({ preventScroll: true });
    });
    return button;
  };
  const grow = () => {
    place.append(...shown.slice(drawn, drawn + BATCH).map(cell));
    drawn = Math.min(shown.length, drawn + BATCH);
    more.hidden = drawn >= shown.length;
  };
  let waiting = 0;
  const sheet = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { place.replaceChildren(); drawn = 0; grow(); });
  };
  more.addEventListener("click", grow);
  new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) grow(); }, { rootMargin: "600px" }).observe(more);

  at.step = 0;
  list();
})();
