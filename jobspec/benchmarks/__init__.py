"""What is known about each benchmark: questions, prompt, answers, protocol, published scores."""

# What a spec is scored on when it names no benchmark. Here, and not in the registry, so that
# reading a spec does not load every benchmark.
DEFAULT = ("minerva_math500", "aime24", "aime25")
