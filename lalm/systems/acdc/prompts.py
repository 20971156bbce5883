"""AC/DC's prompts at inference (section 3.1.3): the chat template carries them around the audio."""

# A question about the audio: the caption's place is taken by the audio tokens.
QUESTION_PROMPT = {
    "system": "Answer the question provided after the audio caption within 10 words.",
    "user": "{audio}. Question: {question},",
}

# The captioning task of the paper's AAC rows.
CAPTION_SYSTEM = "Describe the audio content in one 10-word sentence."
CAPTION_USER = "{audio}."

# The caption-target baseline is trained with this system turn (section 2.1).
BASELINE_SYSTEM = "Describe the audio you hear"
