"""What several test files share: one builder each for specs, models, queues, workers, servers."""
