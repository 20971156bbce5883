// The recordings at hand: each a card with its pictures, playback, and marks where a sound was found.

import { notSound } from "./files.js";
import { limits } from "./models.js";
import { RATE, decode, drawSpectrogram, wav, wavePath } from "./picture.js";
import { check } from "./server.js";

const LARGEST = 200 << 20; // bytes of a file; more would choke the page before the server refuses it
const AS_IT_IS = 8 << 20; // larger files are sent as what the model hears of them, mono at 16 kHz
const place = document.getElementById("clips"), form = document.getElementById("clip-form");

export const clips = []; // in the order of their cards
let last = 0, playing = null;

// Adds a card for a file or blob and returns its clip. What is plainly no recording, or longer than the server
// takes, is refused: an Error whose message can be shown. `kept` is what the browser kept of a clip.
export async function addClip(file, name = file.name || "recording.wav", { recorded = false, kept = null } = {}) {
  if (file.size > LARGEST) throw new Error(`${name} is larger than ${LARGEST >> 20} MB.`);
  if (!file.size) throw new Error(`${name} is empty.`);
  const other = kept ? "" : await notSound(file);
  if (other) throw new Error(`${name} is ${other}, not a recording.`);
  const clip = { ...bareClip(file, name), recorded, number: last + 1, ...pick(kept), card: form.content.cloneNode(true).firstElementChild };
  last = Math.max(last, clip.number);
  clips.push(clip);
  place.append(clip.card);
  furnish(clip);
  try {
    clip.mono = await decode(file);
  } catch {
    await withoutPicture(clip, kept);
    return clip;
  }
  clip.seconds = clip.mono.length / RATE;
  if (clip.seconds > limits.audio_s && !kept) refuse(clip, `is ${clip.seconds.toFixed(1)} s long: the server takes ${limits.audio_s} s.`);
  tellFacts(clip);
  draw(clip);
  return clip;
}

const pick = (kept) => (kept ? { number: kept.number, key: kept.key, label: kept.label, recorded: kept.recorded } : {});

// What the browser cannot decode the server may: it is asked.
async function withoutPicture(clip, kept) {
  part(clip, ".view").hidden = true;
  part(clip, ".play").disabled = true;
  tellFacts(clip, "no picture: the browser cannot decode it");
  if (kept) return;
  const fault = await check(clip);
  if (fault) refuse(clip, `is not taken: ${fault}.`);
}

function refuse(clip, why) {
  removeClip(clip);
  throw new Error(`${clip.name} ${why}`);
}

// A recording without a card, such as a spoken turn.
export function bareClip(file, name) {
  const player = new Audio(URL.createObjectURL(file)), key = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  return { key, number: 0, name, file, player, card: null, mono: null, seconds: 0, sent: false, label: "", recorded: false };
}

// Forget a clip and its card; who keeps the conversation hears of it.
export function removeClip(clip) {
  clip.player.pause();
  clips.splice(clips.indexOf(clip), 1);
  clip.card.remove();
  document.dispatchEvent(new CustomEvent("clips", { detail: { removed: clip } }));
}

// Whether clips belong to the conversation already, or go with the next question.
export function setSent(some, sent) {
  for (const clip of some) {
    clip.sent = sent;
    if (!clip.card) continue;
    clip.card.classList.toggle("sent", sent);
    part(clip, ".remove").setAttribute("aria-label", `Remove ${clip.name}${sent ? " from the conversation" : ""}`);
  }
  document.dispatchEvent(new Event("clips"));
}

// Show stretches of time [{onset_s, offset_s, sound}] on a clip's spectrogram.
export function mark(clip, spans) {
  const sounds = [...new Set(spans.map((span) => span.sound))];
  const made = spans.map((span) => {
    const box = document.createElement("div"), name = document.createElement("span");
    box.className = `mark tone-${sounds.indexOf(span.sound) % 4}`;
    box.style.left = `${(100 * span.onset_s) / clip.seconds}%`;
    box.style.width = `${(100 * (span.offset_s - span.onset_s)) / clip.seconds}%`;
    name.textContent = span.sound;
    box.append(name);
    return box;
  });
  part(clip, ".marks").replaceChildren(...made);
}

// What is uploaded of a clip: the file itself, or what the model would hear of a large one.
export function upload(clip) {
  return clip.file.size > AS_IT_IS && clip.mono ? wav(clip.mono) : clip.file;
}

// Play a clip, or pause it; only one plays at a time.
export function togglePlay(clip) {
  if (playing && playing !== clip) playing.player.pause();
  if (clip.player.paused) { playing = clip; clip.player.play().catch(() => {}); } else clip.player.pause();
}

// Pause whatever plays.
export function hush() {
  playing?.player.pause();
}

// Under a clip's name: how long it is, or what is to be said about it.
export function tellFacts(clip, said = `${clip.seconds.toFixed(1)} s`) {
  part(clip, ".facts").textContent = said;
}

const part = (clip, selector) => clip.card.querySelector(selector);

function furnish(clip) {
  clip.card.setAttribute("aria-label", `Recording ${clip.number}: ${clip.name}`);
  part(clip, ".number").textContent = clip.number;
  part(clip, ".name").textContent = clip.name;
  part(clip, ".name").title = clip.name;
  const play = part(clip, ".play"), remove = part(clip, ".remove"), save = part(clip, ".save");
  play.setAttribute("aria-label", `Play ${clip.name}`);
  play.onclick = () => togglePlay(clip);
  remove.setAttribute("aria-label", `Remove ${clip.name}`);
  remove.onclick = () => removeClip(clip);
  save.hidden = !clip.recorded;
  save.setAttribute("aria-label", `Save ${clip.name}`);
  save.href = clip.player.src;
  save.download = clip.name;
  const called = part(clip, ".called input");
  called.setAttribute("aria-label", `What recording ${clip.number} is a sound of`);
  called.value = clip.label;
  called.oninput = () => { clip.label = called.value.trim(); document.dispatchEvent(new Event("clips")); };
  clip.player.onplay = () => { clip.card.classList.add("playing"); play.setAttribute("aria-label", `Pause ${clip.name}`); follow(clip); };
  clip.player.onpause = () => { clip.card.classList.remove("playing"); play.setAttribute("aria-label", `Play ${clip.name}`); };
  guide(clip);
}

function draw(clip) {
  const canvas = part(clip, ".spectrum");
  for (const path of clip.card.querySelectorAll(".wave path")) path.setAttribute("d", wavePath(clip.mono));
  canvas.width = Math.max(40, Math.min(900, Math.ceil(clip.mono.length / 80)));
  drawSpectrogram(canvas, clip.mono);
  const step = [0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300].find((s) => clip.seconds / s <= 7) || 600;
  for (let time = 0; time < clip.seconds * 0.97; time += step) {
    const tick = document.createElement("span");
    tick.textContent = `${+time.toFixed(1)}${time ? "" : " s"}`;
    tick.style.left = `${(100 * time) / clip.seconds}%`;
    part(clip, ".ticks").append(tick);
  }
  follow(clip);
}

// The cursor, at the player's time for as long as it plays.
function follow(clip) {
  const time = Math.min(clip.player.currentTime, clip.seconds), share = clip.seconds ? (100 * time) / clip.seconds : 0;
  const view = part(clip, ".view");
  part(clip, ".cursor").style.left = `${share}%`;
  part(clip, ".played").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
  view.setAttribute("aria-valuenow", time.toFixed(1));
  view.setAttribute("aria-valuemax", clip.seconds.toFixed(1));
  view.setAttribute("aria-valuetext", `${time.toFixed(1)} of ${clip.seconds.toFixed(1)} seconds`);
  if (!clip.player.paused) requestAnimationFrame(() => follow(clip));
}

// Seeking with pointer and keys.
function guide(clip) {
  const view = part(clip, ".view");
  view.setAttribute("aria-label", `Place in ${clip.name}`);
  const seek = (time) => { clip.player.currentTime = Math.min(clip.seconds, Math.max(0, time)); follow(clip); };
  const point = (event) => {
    const edges = view.getBoundingClientRect();
    seek((clip.seconds * (event.clientX - edges.left)) / edges.width);
  };
  view.onpointerdown = (event) => { view.setPointerCapture(event.pointerId); point(event); };
  view.onpointermove = (event) => { if (view.hasPointerCapture(event.pointerId)) point(event); };
  clip.player.onseeked = () => follow(clip);
  view.onkeydown = (event) => {
    const steps = { ArrowLeft: -0.5, ArrowDown: -0.5, ArrowRight: 0.5, ArrowUp: 0.5, PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity };
    if (event.key in steps) seek(clip.player.currentTime + steps[event.key]);
    else if (event.key === " ") togglePlay(clip);
    else return;
    event.preventDefault();
  };
}
