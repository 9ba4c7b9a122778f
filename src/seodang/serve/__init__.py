"""The tuned model in use: chat in the terminal, LangChain."""
