"""Qwen2-Audio's prompt format, and the prompts of the base model's tasks.

``QUESTION_PROMPT`` is for new models: the released chat format where the LLM speaks ChatML, else the LLM's
own turns with numbered audio; with ``role_markers: false`` the released base format, for stage 1. The paper
has no system prompt to switch between its modes (section 2).
"""

from importlib import resources

_HERE = resources.files("lalm.systems.qwen2_audio")

CHAT = (_HERE / "template.jinja").read_text()
PRETRAIN = (_HERE / "pretrain.jinja").read_text()  # the released base model: audio, then the task's sentence
AUDIO_TOKEN = "<|AUDIO|>"
QUESTION_PROMPT = {
    "audio_token": AUDIO_TOKEN,
    "template": CHAT,
    "plain": PRETRAIN,  # with ``role_markers: false``: the format of stage 1
    "marks": "<|audio_bos|> <|audio_eos|>",  # left out where the LLM's tokenizer has no such tokens
    "slot": "Audio {number}: {audio}\n",
}

# What the base model was asked for its published numbers (from public evaluation kits; not in the paper).
TASKS = {
    "transcribe": "Detect the language and recognize the speech: <|{language}|>",
    "translate": "Detect the language and translate the speech into {target}: <|{language}|>",
    "emotion": "Recognize the emotion with keywords in English:",
    "vocal_sound": "Classify the human vocal sound to VocalSound in English:",
    "caption": "Generate the caption in English:",
}
