-- Returns {"OK", meta, blocks, index, cached, expires}.
return everything()
