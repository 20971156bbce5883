// The page: recordings on one side, a conversation about them on the other.

import { converse, findSounds, isBusy, nameClip, stop, tell, withdraw } from "./asking.js";
import { addClip, clips, hush } from "./clips.js";
import { EXAMPLES, HINTS, STARTERS } from "./examples.js";
import { openHistory, startAnew } from "./history.js";
import { Recording, canRecord } from "./microphone.js";
import { answerers, connect as connectModels, showChosen, showSettings } from "./models.js";
import { setKey } from "./server.js";
import { openVoice } from "./voice.js";

const $ = (id) => document.getElementById(id);
let mode = "ask"; // or "find" or "name"
let recording = null;

async function connect() {
  try {
    await connectModels();
    $("lock").hidden = true;
  } catch (error) {
    $("model").textContent = error.status === 401 ? "locked" : "not connected";
    $("lock").hidden = error.status !== 401;
    tell(error.status === 401 ? "" : error.message);
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

function submit() {
  if (isBusy()) return;
  tell("");
  ({ ask: askQuestion, find: () => findSounds($("question").value), name: nameClip })[mode]();
}

function askQuestion() {
  const text = $("question").value.trim(), some = clips.filter((clip) => !clip.sent);
  if (!text) return tell("Write a question first, or choose one above.");
  if (text === STARTERS.Compare && clips.length < 2) return tell("Comparing needs two recordings: add another.");
  $("question").value = "";
  converse(some, text).then((turn) => { if (!turn) $("question").value ||= text; });
}

async function add(file, name, more) {
  await addAll([file], name, more);
}

// Recordings one after the other; what is refused is told of all.
async function addAll(files, name, more) {
  const faults = [];
  tell("");
  for (const file of files) {
    await addClip(file, name, more).catch((error) => faults.push(error.message));
  }
  tell(faults.join(" "));
  document.dispatchEvent(new Event("clips"));
}

async function addSample(name) {
  try {
    await add(await (await fetch(`page/${name}`)).blob(), name);
  } catch {
    tell("The server does not answer: is it still running?");
  }
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
  const made = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: label, onclick: press });
  if (wanted) { made.dataset.mode = wanted; made.setAttribute("aria-pressed", "false"); }
  return made;
}

// What one can do, each a button that prepares it with sample recordings.
function exampleButton({ title, told, samples = [], labels = [], mode: wanted = "ask", question = "", voice = false }) {
  const made = Object.assign(document.createElement("button"), { type: "button" });
  const [name, more] = ["strong", "span"].map((kind) => document.createElement(kind));
  name.textContent = title;
  more.textContent = told;
  made.append(name, more);
  made.disabled = voice && !canRecord;
  made.onclick = async () => {
    if (voice) return $("voice-open").click();
    for (const [n, sample] of samples.entries()) {
      const there = clips.find((clip) => clip.name === sample);
      if (!there) await addSample(sample);
      const clip = clips.find((one) => one.name === sample);
      if (!clip || !labels[n]) continue;
      clip.label = clip.card.querySelector(".called input").value = labels[n];
    }
    setMode(wanted);
    $("question").value = question;
    $("send").focus();
  };
  return made;
}

function furnish() {
  for (const [name, question] of Object.entries(STARTERS)) {
    $("starters").append(chip(name, () => { setMode("ask"); $("question").value = question; $("question").focus(); }));
  }
  const toggle = (wanted) => () => { setMode(mode === wanted ? "ask" : wanted); $("question").focus(); };
  $("starters").append(chip("Find a sound", toggle("find"), "find"), chip("By example", toggle("name"), "name"));
  for (const example of EXAMPLES) {
    const item = document.createElement("li");
    item.append(exampleButton(example));
    $("examples").append(item);
  }
  for (const button of document.querySelectorAll("#samples [data-file]")) button.onclick = () => addSample(button.dataset.file);
  $("record").disabled = !canRecord;
  $("voice-open").disabled = !canRecord;
  $("no-microphone").hidden = canRecord;
  document.addEventListener("input", (event) => { if (event.target.closest("#settings")) showSettings(); });
  openVoice({ converse, tell, busy: isBusy, stop, withdraw, options: () => answerers()[0].options });
}

function listen() {
  document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); };
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    addAll([...event.dataTransfer.files]);
  };
  document.onpaste = (event) => {
    if (event.clipboardData.files.length) event.preventDefault();
    addAll([...event.clipboardData.files]);
  };
  $("files").onchange = (event) => { addAll([...event.target.files]); event.target.value = ""; };
  $("record").onclick = record;
  $("ask").onsubmit = (event) => { event.preventDefault(); submit(); };
  $("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  $("stop").onclick = stop;
  $("fresh").onclick = () => { startAnew(); $("question").focus(); };
  $("first").onchange = $("second").onchange = showChosen;
  $("lock").onsubmit = (event) => { event.preventDefault(); setKey($("key").value.trim()); connect(); };
  document.addEventListener("locked", connect);
  document.addEventListener("clips", ({ detail }) => {
    document.body.classList.toggle("empty", !clips.length);
    if (detail?.removed) withdraw(detail.removed);
  });
  document.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    stop();
    for (const menu of document.querySelectorAll(".menu[open]")) { menu.open = false; menu.firstElementChild.focus(); }
  };
  listenToTheme();
}

function listenToTheme() {
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
openHistory({ tell, withdraw, stop });
