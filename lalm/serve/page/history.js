// Conversations survive a reload, can be opened again later, and exported.

import { addClip, bareClip, clips, removeClip, setSent } from "./clips.js";
import { asText, messagesFor, toKeep, turns } from "./conversation.js";
import { answerers } from "./models.js";
import { spelled } from "./server.js";
import * as storage from "./storage.js";
import { announce, hideAll, showKept } from "./turns.js";

const PAUSE_MS = 150; // between a change of the recordings and keeping it; an answer is kept at once
const $ = (id) => document.getElementById(id);
const newId = () => `${Date.now()}-${Math.random().toString(36).slice(2)}`;
let id = sessionStorage.getItem("conversation") || newId(); // a tab has its own
let waiting = 0, opening = false, keeping = Promise.resolve();
let page; // what this needs of the rest: tell(text), withdraw(clip), stop()

// Begin: open what this tab had, and keep what changes from now on.
export async function openHistory(rest) {
  page = rest;
  sessionStorage.setItem("conversation", id);
  await open(id);
  document.addEventListener("clips", later);
  document.addEventListener("conversation", keep);
  addEventListener("pagehide", () => { if (waiting) keep(); });
  $("earlier").ontoggle = list;
  $("save-json").onclick = async () => save(new Blob([await asJson()], { type: "application/json" }), "conversation.json");
  $("save-text").onclick = () => save(new Blob([asText()], { type: "text/markdown" }), "conversation.md");
}

function later() {
  clearTimeout(waiting);
  if (!opening) waiting = setTimeout(keep, PAUSE_MS);
}

// Keep what there is now, after what was kept before it.
function keep() {
  clearTimeout(waiting);
  waiting = 0;
  if (opening) return keeping;
  const now = toKeep(id), work = now.turns.length || now.clips.length ? () => storage.put(now) : () => storage.remove(now.id);
  keeping = keeping.then(work).catch((error) => page.tell(error.message));
  return keeping;
}

// Show the conversation of that id in place of what is there.
async function open(wanted) {
  const kept = await storage.get(wanted).catch(() => undefined);
  if (!kept) return;
  if (waiting) await keep();
  opening = true;
  clear(wanted);
  for (const clip of [...clips]) removeClip(clip);
  const all = [];
  for (const one of kept.clips.filter((clip) => clip.file)) {
    const made = one.card ? await addClip(one.file, one.name, { kept: one }) : Object.assign(bareClip(one.file, one.name), { key: one.key });
    all[kept.clips.indexOf(one)] = made;
    setSent([made], one.sent);
  }
  for (const { content, ...turn } of kept.turns) {
    turns.push({ ...turn, content: content.map((part) => ("clip" in part ? { clip: all[part.clip] } : part)).filter((part) => part.clip || part.text) });
    showKept(turns.at(-1), page.withdraw);
  }
  opening = false;
}

function clear(next) {
  page.stop();
  id = next;
  sessionStorage.setItem("conversation", id);
  turns.length = 0;
  hideAll();
}

// Start anew; the recordings are there for the next question.
export function startAnew() {
  if (waiting) keep(); // what is there now; the rest of keeping it goes on by itself
  clear(newId());
  setSent(clips, false);
  announce("New conversation");
}

async function list() {
  if (!$("earlier").open) return;
  const kept = (await storage.all().catch(() => [])).filter((one) => one.id !== id && one.turns.length);
  $("earlier-list").replaceChildren(...kept.map((one) => {
    const item = document.createElement("li"), opens = document.createElement("button"), forgets = document.createElement("button");
    const when = new Date(one.changed).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    for (const button of [opens, forgets]) Object.assign(button, { type: "button", className: "plain" });
    opens.textContent = `${one.title.slice(0, 60)} · ${when}`;
    opens.onclick = async () => { $("earlier").open = false; await open(one.id); $("question").focus(); };
    forgets.textContent = "×";
    forgets.setAttribute("aria-label", `Forget the conversation ${one.title.slice(0, 60)}`);
    forgets.onclick = async () => { await storage.remove(one.id); item.remove(); $("earlier-none").hidden = Boolean($("earlier-list").children.length); };
    item.append(opens, forgets);
    return item;
  }));
  $("earlier-none").hidden = kept.length > 0;
}

// A request that goes on with the conversation: its recordings are in it as base64.
async function asJson() {
  const { by, options } = answerers()[0], last = { kind: "ask", content: [] };
  return `${JSON.stringify({ ...options, messages: await spelled(messagesFor(last, by).slice(0, -1)) }, null, 1)}\n`;
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  $("save").open = false;
}
