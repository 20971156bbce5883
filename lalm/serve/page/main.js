// The page: recordings on one side, a conversation about them on the other.

import { addClip, clips, hush, mark, setSent } from "./clips.js";
import * as conversation from "./conversation.js";
import { Recording, canRecord } from "./microphone.js";
import { chat, detect, served, setKey } from "./server.js";
import { openVoice } from "./voice.js";

const $ = (id) => document.getElementById(id);
const STARTERS = {
  Describe: "What do you hear?",
  Transcribe: "Transcribe the speech word for word.",
  Translate: "Translate the speech into English.",
  Compare: "How do these recordings differ?",
};
const HINTS = {
  ask: "What would you like to know?",
  find: "Name a sound, or several with commas between: bell, dog barking",
};
const SHOT = "This is a sound of"; // APT's words for labelled clips, as lalm classify uses them
let server = { model: "", lora_scale: null };
let mode = "ask"; // or "find" or "name"
let stopping = null; // while an answer comes: its AbortController
let recording = null;

function tell(text) {
  $("status").textContent = text;
}

async function connect() {
  try {
    server = await served();
    $("model").textContent = server.model;
    $("lock").hidden = true;
  } catch (error) {
    $("model").textContent = error.status === 401 ? "locked" : "not connected";
    $("lock").hidden = error.status !== 401;
    tell(error.status === 401 ? "" : error.message);
    return;
  }
  const trained = server.lora_scale;
  $("lora-row").hidden = trained === null;
  if (trained !== null) {
    Object.assign($("lora_scale"), { max: 2 * trained, step: trained / 20, value: trained, defaultValue: trained });
    showSettings();
  }
}

// Settings, of which only what differs from the server's own is sent.
function options() {
  const wish = { model: server.model };
  for (const name of ["temperature", "top_p", "max_tokens", "lora_scale"]) {
    const input = $(name);
    if (Number(input.value) !== Number(input.defaultValue)) wish[name] = Number(input.value);
  }
  if ($("seed").value !== "" && wish.temperature) wish.seed = Number($("seed").value);
  return wish;
}

function showSettings() {
  for (const input of document.querySelectorAll("#settings input[type=range]")) {
    const value = Number(input.value), at = value === Number(input.defaultValue);
    const special = { temperature: "always the likeliest", lora_scale: "as trained" }[input.id];
    const shown = `${+value.toFixed(2)}${at && special ? `, ${special}` : ""}`;
    input.parentElement.querySelector("output").textContent = shown;
    input.setAttribute("aria-valuetext", shown);
  }
}

function setMode(wanted) {
  mode = wanted;
  document.body.dataset.mode = mode;
  for (const chip of document.querySelectorAll("#starters [data-mode]")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.mode === mode));
  }
  $("question").placeholder = HINTS[mode] || "";
  $("question-label").textContent = mode === "find" ? "Sound to find" : "Question";
  $("send").textContent = { ask: "Ask", find: "Find", name: "Name it" }[mode];
  tell("");
}

const fresh = () => clips.filter((clip) => !clip.sent);

function submit() {
  if (stopping) return;
  tell("");
  ({ ask: askQuestion, find: findSounds, name: nameClip })[mode]();
}

function askQuestion() {
  const text = $("question").value.trim(), some = fresh();
  if (!text) return tell("Write a question first, or choose one above.");
  if (text === STARTERS.Compare && clips.length < 2) return tell("Comparing needs two recordings: add another.");
  $("question").value = "";
  converse(some, text).then((done) => { if (!done) $("question").value ||= text; });
}

// One more turn of the conversation; resolves to its answer's text, "" if there is none.
async function converse(some, text) {
  const content = [...some.map((clip) => ({ clip })), ...(text ? [{ text }] : [])];
  const asked = [...conversation.messages, { role: "user", content }];
  const shown = conversation.showQuestion(some, text);
  setSent(some, true);
  const answer = await answered({ messages: asked, options: options() });
  if (!answer) {
    shown.remove();
    setSent(some, false);
    return "";
  }
  conversation.messages.push(asked.at(-1), { role: "assistant", content: [{ text: answer }] });
  return answer;
}

// Show the answer to a chat request as it comes; its text.
async function answered(request) {
  const answer = conversation.showAnswer();
  let facts = "";
  await working(async (signal) => {
    for await (const event of chat(request, signal)) {
      if (event.text) answer.add(event.text);
      else facts = conversation.heardText(event);
    }
  });
  if (answer.text) answer.finish(facts || "stopped", conversation.chatCopies(answer, request));
  else {
    answer.remove();
    if (facts) tell("The model says nothing to this.");
  }
  return answer.text;
}

// Run work that can be stopped; what goes wrong is told.
async function working(work) {
  stopping = new AbortController();
  document.body.classList.add("busy");
  $("send").disabled = true;
  $("stop").hidden = false;
  try {
    await work(stopping.signal);
  } catch (error) {
    if (error.status === 401) connect();
    if (error.name !== "AbortError") tell(error.message);
  }
  stopping = null;
  document.body.classList.remove("busy");
  $("send").disabled = false;
  $("stop").hidden = true;
}

// Look for sounds in every recording, and mark where they are.
async function findSounds() {
  const sounds = $("question").value.split(",").map((sound) => sound.trim()).filter(Boolean);
  const some = clips.filter((clip) => clip.seconds);
  if (!some.length) return tell("Add a recording to find sounds in.");
  if (!sounds.length) return tell("Name the sound to find, such as: bell.");
  const shown = conversation.showQuestion(some, `When do you hear: ${sounds.join(", ")}?`);
  const answer = conversation.showAnswer();
  await working((signal) => Promise.all(some.map(async (clip) => {
    const found = await detect(clip, sounds, signal);
    mark(clip, found.sounds.flatMap(({ sound, spans }) => spans.map((span) => ({ ...span, sound }))));
    const lines = found.sounds.map(({ sound, spans, answer: words }) => {
      const times = spans.map((span) => `${span.onset_s.toFixed(1)}–${span.offset_s.toFixed(1)} s`).join(", ");
      return `${clip.name}, ${sound}: ${times || `no times. The model says: ${words || "nothing"}`}`;
    });
    answer.add(`${answer.text ? "\n" : ""}${lines.join("\n")}`);
  })));
  if (!answer.text) { answer.remove(); shown.remove(); return; }
  answer.finish("asked apart from the conversation", conversation.detectCopies(answer, { clip: some[0], sounds }));
}

// Few-shot: recordings with names, then the one without.
async function nameClip() {
  const labelled = clips.filter((clip) => clip.label), query = clips.filter((clip) => !clip.label).at(-1);
  if (!labelled.length || !query) {
    return tell("Say under some recordings what they are, and leave the one to be named empty.");
  }
  const content = labelled.flatMap((clip) => [{ clip }, { text: `${SHOT} ${clip.label}.\n` }]);
  content.push({ clip: query }, { text: SHOT });
  const told = labelled.map((clip) => `${clip.number} is ${clip.label}`).join(", ");
  const shown = conversation.showQuestion([...labelled, query], `${told}. What is ${query.number}?`);
  const answer = await answered({ messages: [{ role: "user", content }], options: options() });
  if (!answer) shown.remove();
}

async function add(file, name, more) {
  tell("");
  try {
    await addClip(file, name, more);
  } catch (error) {
    tell(error.message);
  }
  document.dispatchEvent(new Event("clips"));
}

async function record() {
  const button = $("record");
  if (recording) {
    const ended = recording;
    recording = null;
    button.setAttribute("aria-pressed", "false");
    button.lastChild.textContent = "Record";
    $("level").hidden = true;
    await add(await ended.stop(), `recording-${new Date().toTimeString().slice(0, 8).replaceAll(":", "")}.wav`, { recorded: true });
    return;
  }
  hush();
  try {
    recording = await Recording.start($("level"));
  } catch (error) {
    return tell(error.message);
  }
  button.setAttribute("aria-pressed", "true");
  button.lastChild.textContent = "Stop";
  $("level").hidden = false;
}

function chip(label, press, wanted) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "chip";
  made.textContent = label;
  if (wanted) { made.dataset.mode = wanted; made.setAttribute("aria-pressed", "false"); }
  made.onclick = press;
  return made;
}

function furnish() {
  for (const [name, question] of Object.entries(STARTERS)) {
    $("starters").append(chip(name, () => { setMode("ask"); $("question").value = question; $("question").focus(); }));
  }
  const toggle = (wanted) => () => { setMode(mode === wanted ? "ask" : wanted); $("question").focus(); };
  $("starters").append(chip("Find a sound", toggle("find"), "find"), chip("By example", toggle("name"), "name"));
  for (const button of document.querySelectorAll("#samples [data-file]")) {
    button.onclick = async () => {
      try {
        await add(await (await fetch(`page/${button.dataset.file}`)).blob(), button.dataset.file);
      } catch {
        tell("The server does not answer: is it still running?");
      }
    };
  }
  $("record").disabled = !canRecord;
  $("voice-open").disabled = !canRecord;
  $("no-microphone").hidden = canRecord;
  document.addEventListener("clips", () => document.body.classList.toggle("empty", !clips.length));
  document.addEventListener("input", (event) => { if (event.target.closest("#settings")) showSettings(); });
  openVoice({ converse, tell, busy: () => stopping !== null, stop: () => stopping?.abort(), options });
}

function listen() {
  document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); };
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    for (const file of event.dataTransfer.files) add(file);
  };
  $("files").onchange = (event) => { for (const file of event.target.files) add(file); event.target.value = ""; };
  $("record").onclick = record;
  $("ask").onsubmit = (event) => { event.preventDefault(); submit(); };
  $("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  $("stop").onclick = () => stopping?.abort();
  $("fresh").onclick = () => { stopping?.abort(); conversation.forget(); $("question").focus(); };
  $("lock").onsubmit = (event) => { event.preventDefault(); setKey($("key").value.trim()); connect(); };
  document.onkeydown = (event) => { if (event.key === "Escape") stopping?.abort(); };
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const show = () => $("theme").setAttribute("aria-pressed", String(isDark()));
  $("theme").onclick = () => { root.dataset.theme = isDark() ? "light" : "dark"; localStorage.setItem("theme", root.dataset.theme); show(); };
  root.dataset.theme = localStorage.getItem("theme") || "";
  show();
}

furnish();
listen();
setMode("ask");
showSettings();
connect();
