"""The HTTP server: OpenAI's requests answered by one model, in one batch that requests join and leave."""
