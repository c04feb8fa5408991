"""Speech from a text: a model with its codec, loaded once, that speaks. Import rules: tests/test_architecture.py."""
