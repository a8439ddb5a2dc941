"""`quire chat`: a conversation with a model in the terminal, over the chat API of any server that has it."""
