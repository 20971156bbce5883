"""llama.cpp: models as GGUF files, and its library as the program that runs them. See docs/export.md."""
