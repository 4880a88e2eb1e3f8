"""The job spec: its fields, its rules, its identity, and how specs are built."""
