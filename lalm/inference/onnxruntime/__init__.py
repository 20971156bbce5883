"""ONNX Runtime as the library that runs the LLM. See docs/speed.md."""
