"""Types that clients and services share: parameters, answers, errors, limits. Knows neither torch nor a protocol."""
