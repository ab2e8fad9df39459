"use strict";
// Tables that sort and filter, views to choose from, lines to hide, light and dark. Nothing here makes HTML of a text.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  const theme = document.getElementById("theme");
  if (theme) {
    const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
    theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
    name();
  }

  // Sorting: a cell's data-value, or its text. What is not a number stands last, whichever way.
  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value ?? cell.textContent.trim();
    if (value === "inf") return Infinity;
    const number = Number(value);
    return value === "" || Number.isNaN(number) ? value : number;
  };
  const compare = (a, b, turn) => {
    const rank = (one) => (one === "" ? 2 : typeof one === "number" ? 0 : 1);
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    if (rank(a) === 2) return 0;
    return turn * (typeof a === "number" ? (a === b ? 0 : a < b ? -1 : 1) : a.localeCompare(b));
  };
  for (const table of all("table[data-sortable]")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = head.querySelector("button.sort");
      if (!button) return;
      button.addEventListener("click", () => {
        const first = button.dataset.first || "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const way = head.getAttribute("aria-sort") === first ? other : first;
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way);
        const turn = way === "ascending" ? 1 : -1;
        const body = table.tBodies[0];
        const rows = all("tr:not([data-empty])", body).map((row, i) => [key(row, column), i, row]);
        rows.sort((a, b) => compare(a[0], b[0], turn) || a[1] - b[1]);
        for (const row of body.rows) row.classList.remove("next-group");
        body.append(...rows.map((row) => row[2]));
      });
    });
  }

  // Checkpoints: hidden by the filter's words, or by a click in the legend. Both hide rows, lines and columns of pictures.
  const entries = new Map(all("[data-search]").map((one) => [one.dataset.entry, one.dataset.search.toLowerCase()]));
  const off = new Set();
  let words = [];
  const apply = () => {
    const found = new Set([...entries].filter(([, text]) => words.every((word) => text.includes(word))).map(([name]) => name));
    for (const one of all("[data-entry]")) {
      const name = one.dataset.entry;
      const row = one.matches("tr, article");
      one.toggleAttribute("hidden", (entries.has(name) && !found.has(name)) || (!row && off.has(name)));
    }
    for (const one of all("[data-empty]")) one.hidden = entries.size === 0 || found.size > 0;
    const count = document.getElementById("found");
    if (count) count.textContent = words.length ? `${found.size} of ${entries.size}` : "";
  };
  const filter = document.getElementById("filter");
  if (filter) {
    filter.addEventListener("input", () => {
      words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      apply();
    });
  }
  for (const button of all(".legend button[data-toggle]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.toggle;
      if (!off.delete(name)) off.add(name);
      for (const one of all(".legend button[data-toggle]")) {
        one.setAttribute("aria-pressed", String(!off.has(one.dataset.toggle)));
      }
      apply();
    });
  }

  const view = document.getElementById("view");
  if (view) {
    const choose = () => {
      for (const one of all("section.view")) one.hidden = view.value !== "all" && one.id !== view.value;
    };
    view.addEventListener("change", choose);
    choose();
  }
  // A link into something that is folded opens it.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
})();
