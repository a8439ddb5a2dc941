"""`quire bench`: loads servers, or the engine in process, and says how they bore it."""
