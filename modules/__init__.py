"""Models, verifiers and search. Import rules: tests/test_architecture.py."""
