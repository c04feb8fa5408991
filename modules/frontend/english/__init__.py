"""What English says for what it writes in digits, signs and short forms. Import rules: tests/test_architecture.py."""
