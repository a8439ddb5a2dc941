"""What clients and services both name: parameters, answers, errors, limits. Knows neither torch nor a protocol."""
