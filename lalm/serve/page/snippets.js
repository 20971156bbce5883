// The same request for a shell or for Python. Recordings are files of their names beside it.

import { hasKey } from "./server.js";

const base = () => new URL("v1", location.href).href;
const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function body({ messages, options }) {
  const names = [];
  const written = messages.map(({ role, content }) => ({
    role,
    content: role === "assistant" ? content[0].text : content.map((part) => {
      if (!part.clip) return { type: "text", text: part.text };
      names.push(part.clip.name);
      return { type: "input_audio", input_audio: { data: `@${names.length - 1}@`, format: "wav" } };
    }),
  }));
  return { names, json: { ...options, messages: written } };
}

// A chat request as a shell command: recordings are put in as base64 where they stand in the JSON.
export function chatCurl(request) {
  const { names, json } = body(request);
  const spelled = shellQuoted(JSON.stringify(json)).replace(
    /"data":"@(\d+)@"/g, (_, n) => `"data":"'"$(base64 < ${shellQuoted(names[n])} | tr -d '\\n')"'"`);
  const key = hasKey() ? ' \\\n  -H "Authorization: Bearer $LALM_API_KEY"' : "";
  return `printf '%s' ${spelled} |\n  curl ${shellQuoted(`${base()}/chat/completions`)} -H 'Content-Type: application/json'${key} -d @-\n`;
}

// The same through the openai package.
export function chatPython(request) {
  const { names, json } = body(request), { messages, lora_scale: scale, model, ...options } = json;
  const spelled = JSON.stringify(messages, null, 4).replace(
    /\{\s*"type": "input_audio",\s*"input_audio": \{\s*"data": "@(\d+)@",\s*"format": "wav"\s*\}\s*\}/g,
    (_, n) => `audio(${JSON.stringify(names[n])})`);
  const more = Object.entries(options).map(([name, value]) => `\n    ${name}=${value},`).join("");
  const extra = scale === undefined ? "" : `\n    extra_body={"lora_scale": ${scale}},`;
  return `import base64
${hasKey() ? "import os\n" : ""}from pathlib import Path

from openai import OpenAI


def audio(name):
    data = base64.b64encode(Path(name).read_bytes()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


client = OpenAI(base_url=${JSON.stringify(base())}, api_key=${hasKey() ? 'os.environ["LALM_API_KEY"]' : '"none"'})
messages = ${spelled}
answer = client.chat.completions.create(
    model=${JSON.stringify(model)},
    messages=messages,${more}${extra}
)
print(answer.choices[0].message.content)
`;
}

// A search for sounds in one recording.
export function detectCurl({ clip, sounds, model }) {
  const key = hasKey() ? ' \\\n  -H "Authorization: Bearer $LALM_API_KEY"' : "";
  const fields = sounds.map((sound) => ` --form-string ${shellQuoted(`sound=${sound}`)}`).join("");
  const chosen = ` --form-string ${shellQuoted(`model=${model}`)}`;
  return `curl ${shellQuoted(`${base()}/audio/detections`)} -F ${shellQuoted(`file=@"${clip.name.replace(/["\\]/g, "\\$&")}"`)}${fields}${chosen}${key}\n`;
}

// The same in Python.
export function detectPython({ clip, sounds, model }) {
  const key = hasKey() ? ', headers={"Authorization": f"Bearer {os.environ[\'LALM_API_KEY\']}"}' : "";
  return `${hasKey() ? "import os\n\n" : ""}import httpx

with open(${JSON.stringify(clip.name)}, "rb") as file:
    answer = httpx.post(
        ${JSON.stringify(`${base()}/audio/detections`)},
        files={"file": file},
        data={"sound": ${JSON.stringify(sounds)}, "model": ${JSON.stringify(model)}},
        timeout=300${key},
    )
for sound in answer.json()["sounds"]:
    print(sound["sound"], sound["spans"])
`;
}
