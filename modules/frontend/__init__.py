"""Text before the model: what is typed, as sentences to speak and pauses. Import rules: tests/test_architecture.py."""
