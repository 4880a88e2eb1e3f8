"""What is known about each benchmark: questions, prompt, answers, protocol, published scores."""
