"""What people do with a model: data, training, generation, results, and the `eyas` command."""
