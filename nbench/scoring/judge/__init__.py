"""Questions about pictures to a multimodal model behind an OpenAI-compatible server."""
