// What the server is asked, and its answers; what it refuses is thrown as an Error in its own words.

import { upload } from "./clips.js";

let key = "";
export const setKey = (value) => { key = value; };
export const hasKey = () => Boolean(key);
// How a WebSocket of a browser tells the key, as with OpenAI.
export const keyProtocol = () => (key ? [`openai-insecure-api-key.${key}`] : []);
const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Refused(answer.status, said?.error?.message || `The server answers with HTTP ${answer.status}.`);
}

async function ask(path, wish) {
  try {
    return await checked(await fetch(path, wish));
  } catch (error) {
    if (error instanceof TypeError) throw new Refused(0, "The server does not answer: is it still running?");
    throw error;
  }
}

// {models: [{id, lalm: {open, lora_scale}}], limits: {audio_s, clips, body_bytes}} of the server; Refused with status
// 401 when it wants a key.
export async function served() {
  const { data } = await (await ask("v1/models", { headers: headers() })).json();
  return { models: data, limits: (await (await ask("health", {})).json()).limits };
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

// Conversations are kept as [{role, content: [{clip} | {text}, ...]}]; OpenAI's form of one:
export async function spelled(messages) {
  return Promise.all(messages.map(async ({ role, content }) => ({
    role,
    content: role === "assistant" ? content[0].text : await Promise.all(content.map(async (part) => (
      part.clip
        ? { type: "input_audio", input_audio: { data: await base64(upload(part.clip)), format: "wav" } }
        : { type: "text", text: part.text }))),
  })));
}

// The answer's pieces as they come, {text}, and at the end {heard, first_text_s}.
export async function* chat({ messages, options }, signal) {
  const body = { ...options, messages: await spelled(messages), stream: true };
  const answer = await ask("v1/chat/completions", {
    method: "POST", signal, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", ...headers() },
  });
  for await (const event of events(answer.body)) {
    if (event.error) throw new Refused(500, event.error.message);
    const text = event.choices[0]?.delta.content;
    if (text) yield { text };
    if (event.lalm) yield event.lalm;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (held + value).split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// When the sounds occur in a clip: {seconds, sounds: [{sound, spans: [{onset_s, offset_s}], answer}]}.
export async function detect(clip, sounds, model, signal) {
  const body = new FormData();
  body.append("file", upload(clip), clip.name);
  for (const sound of sounds) body.append("sound", sound);
  body.append("model", model);
  return (await ask("v1/audio/detections", { method: "POST", body, signal, headers: headers() })).json();
}

// What speech in a clip was understood, in the words of a model that transcribes; "" without speech.
export async function transcribe(clip, model) {
  const body = new FormData();
  body.append("file", upload(clip), clip.name);
  body.append("model", model);
  const answer = await ask("v1/audio/transcriptions", { method: "POST", body, headers: headers() });
  return (await answer.json()).text.trim();
}

// Whether the server can decode a clip: what it says is wrong, or "". Nobody's answer waits for this.
export async function check(clip) {
  const messages = await spelled([{ role: "user", content: [{ clip }] }]);
  try {
    await ask("tokenize", {
      method: "POST", body: JSON.stringify({ messages }), headers: { "Content-Type": "application/json", ...headers() },
    });
  } catch (error) {
    if (error.status === 400 || error.status === 413) return error.message.replace(/^audio 1: /, "");
  }
  return "";
}
