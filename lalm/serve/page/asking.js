// The three kinds of questions: asked in the conversation, about when sounds occur, and by example.

import { clips, mark, setSent } from "./clips.js";
import * as conversation from "./conversation.js";
import { answerers } from "./models.js";
import { chat, detect } from "./server.js";
import * as view from "./turns.js";

const SHOT = "This is a sound of"; // APT's words for labelled clips, as lalm classify uses them
const $ = (id) => document.getElementById(id);
let stopping = null; // while an answer comes: its AbortController

export const isBusy = () => stopping !== null;
export const stop = () => stopping?.abort();
const changed = () => document.dispatchEvent(new Event("conversation"));

export function tell(text) {
  $("status").textContent = text;
}

// Take a recording out of the conversation that it was sent with.
export function withdraw(clip) {
  view.showWithdrawn(clip, conversation.withdraw(clip));
  clip.player.pause();
  changed();
}

// One more turn of the conversation; resolves to it, or null if there is no answer. `begun` gets it at once.
export async function converse(some, text, begun = () => {}) {
  const content = [...some.map((clip) => ({ clip })), ...(text ? [{ text }] : [])];
  const turn = begin("ask", content, text);
  begun(turn);
  setSent(some, true);
  if (await answered(turn)) return turn;
  setSent(some, false);
  return null;
}

// A turn whose answers come later.
export function begin(kind, content, text, sounds = []) {
  const turn = { kind, content, text, sounds, understood: "", answers: [] };
  conversation.turns.push(turn);
  view.showQuestion(turn, withdraw);
  return turn;
}

// Show the answers to a turn as they come; whether there is any. Without one the turn is gone.
async function answered(turn) {
  const all = answerers(), places = view.showAnswers(turn, all.map((one) => one.by));
  let silent = false;
  await working((signal) => every(all.map(async ({ by, options }, n) => {
    let facts = "";
    try {
      for await (const event of chat({ messages: conversation.messagesFor(turn, by), options }, signal)) {
        if (event.text) places[n].add(event.text);
        else facts = heardText(event);
      }
    } finally {
      const text = places[n].text;
      silent ||= Boolean(facts) && !text;
      if (text) settle(turn, places[n], { by, options, text, facts: facts || "stopped" });
      else places[n].remove();
    }
  })));
  if (turn.answers.length) turn.answers.sort((a, b) => rank(all, a) - rank(all, b));
  else drop(turn);
  if (silent) tell("The model says nothing to this.");
  changed();
  return turn.answers.length > 0;
}

// An answer that comes by itself, hands-free: add(text), then end(whole), which tells `said` a whole one.
export function beginAnswer(turn, options, said) {
  const by = answerers()[0].by, [place] = view.showAnswers(turn, [by]);
  return {
    add: place.add,
    end(whole) {
      const { text } = place;
      if (!text) return place.remove();
      settle(turn, place, { by, options, text, facts: whole ? "hands-free" : "cut short" });
      changed();
      if (whole) said(text);
    },
  };
}

const rank = (all, answer) => all.findIndex((one) => one.by === answer.by);

function settle(turn, place, answer) {
  turn.answers.push(answer);
  place.finish(answer);
}

function drop(turn) {
  if (conversation.turns.includes(turn)) conversation.turns.splice(conversation.turns.indexOf(turn), 1);
  view.hide(turn);
}

// Wait for all; then the first error is thrown.
async function every(works) {
  const failed = (await Promise.allSettled(works)).find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
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
    if (error.status === 401) document.dispatchEvent(new Event("locked"));
    if (error.name !== "AbortError") tell(error.message);
  }
  stopping = null;
  document.body.classList.remove("busy");
  $("send").disabled = false;
  $("stop").hidden = true;
}

// Look for sounds in every recording, and mark where they are.
export async function findSounds(words) {
  const sounds = words.split(",").map((sound) => sound.trim()).filter(Boolean);
  const some = clips.filter((clip) => clip.seconds);
  if (!some.length) return tell("Add a recording to find sounds in.");
  if (!sounds.length) return tell("Name the sound to find, such as: bell.");
  const turn = begin("find", some.map((clip) => ({ clip })), `When do you hear: ${sounds.join(", ")}?`, sounds);
  const { by, options } = answerers()[0], [place] = view.showAnswers(turn, [by]);
  await working((signal) => every(some.map(async (clip) => {
    const found = await detect(clip, sounds, options.model, signal);
    mark(clip, found.sounds.flatMap(({ sound, spans }) => spans.map((span) => ({ ...span, sound }))));
    const lines = found.sounds.map(({ sound, spans, answer: words }) => {
      const times = spans.map((span) => `${span.onset_s.toFixed(1)}–${span.offset_s.toFixed(1)} s`).join(", ");
      return `${clip.name}, ${sound}: ${times || `no times. The model says: ${words || "nothing"}`}`;
    });
    place.add(`${place.text ? "\n" : ""}${lines.join("\n")}`);
  })));
  if (place.text) settle(turn, place, { by, options, text: place.text, facts: "asked apart from the conversation" });
  else drop(turn);
  changed();
}

// Few-shot: recordings with names, then the one without.
export async function nameClip() {
  const labelled = clips.filter((clip) => clip.label), query = clips.filter((clip) => !clip.label).at(-1);
  if (!labelled.length || !query) {
    return tell("Say under some recordings what they are, and leave the one to be named empty.");
  }
  const content = labelled.flatMap((clip) => [{ clip }, { text: `${SHOT} ${clip.label}.\n` }]);
  content.push({ clip: query }, { text: SHOT });
  const told = labelled.map((clip) => `${clip.number} is ${clip.label}`).join(", ");
  await answered(begin("name", content, `${told}. What is ${query.number}?`));
}

// "Heard 2.8 s": all of it, or how much of how much.
function heardText({ heard, first_text_s: first }) {
  const total = (name) => heard.reduce((sum, clip) => sum + clip[name], 0);
  const given = total("seconds_given"), got = total("seconds_heard");
  const whole = Math.abs(given - got) < 0.05;
  const audio = heard.length ? `heard ${whole ? "" : `${got.toFixed(1)} of `}${given.toFixed(1)} s · ` : "";
  return `${audio}first words after ${first.toFixed(1)} s`;
}
