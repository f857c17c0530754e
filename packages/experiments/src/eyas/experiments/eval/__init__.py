"""A run asked the tasks of lm-eval: the extra `eval`, which nothing outside this folder imports."""
