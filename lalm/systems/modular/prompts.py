"""How a question is put: the sound first, then the words, and nothing of our own around them."""

QUESTION_PROMPT = {"user": "{audio}{question}"}
