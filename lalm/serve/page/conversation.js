// The conversation as data: its turns, what the next question continues, and how it is kept and exported.

import { clips } from "./clips.js";

// A turn: {kind, content: [{clip} | {text}], text, sounds, understood, answers: [{by, model, options, text, facts}]}.
// `kind` is "ask", or "find" and "name", which stand apart; `by` is the label of who answers.
export const turns = [];

const answerOf = (turn, by) => turn.answers.find((answer) => answer.by === by) || turn.answers[0];
const goesOn = (turn) => turn.kind === "ask" && turn.content.length > 0 && turn.answers.length > 0;

// The messages that `by` is asked with a turn: the conversation before it, in which its own answers stand, and it.
export function messagesFor(turn, by) {
  const question = { role: "user", content: turn.content };
  if (turn.kind !== "ask") return [question];
  const before = turns.slice(0, turns.includes(turn) ? turns.indexOf(turn) : turns.length).filter(goesOn);
  return [...before.flatMap((one) => [
    { role: "user", content: one.content }, { role: "assistant", content: [{ text: answerOf(one, by).text }] },
  ]), question];
}

// Every recording of the conversation: those with cards, then spoken turns.
export function allClips() {
  return [...new Set([...clips, ...turns.flatMap((turn) => turn.content.map((part) => part.clip).filter(Boolean))])];
}

// Take a recording out of all turns; the turns of which nothing is left, which are gone now.
export function withdraw(clip) {
  const emptied = [];
  for (const turn of [...turns]) {
    const before = turn.content.length;
    turn.content = turn.content.filter((part) => part.clip !== clip);
    if (turn.content.length === before || turn.content.length) continue;
    turns.splice(turns.indexOf(turn), 1);
    emptied.push(turn);
  }
  return emptied;
}

// What the browser can keep of it: the turns that were answered. Recordings are told by their number in `clips`.
export function toKeep(id) {
  const all = allClips(), answered = turns.filter((turn) => turn.answers.length);
  const sent = new Set(answered.filter((turn) => turn.kind === "ask").flatMap((turn) => turn.content.map((part) => part.clip)));
  return {
    id,
    changed: Date.now(),
    title: turns[0]?.text || (turns.length ? "Spoken conversation" : ""),
    clips: all.map((clip) => ({ ...pick(clip, "key number name file label recorded"), sent: sent.has(clip), card: Boolean(clip.card) })),
    turns: answered.map((turn) => ({
      ...pick(turn, "kind text sounds understood answers"),
      content: turn.content.map((part) => (part.clip ? { clip: all.indexOf(part.clip) } : part)),
    })),
  };
}

const pick = (from, names) => Object.fromEntries(names.split(" ").map((name) => [name, from[name]]));

// The conversation to read: Markdown.
export function asText() {
  const said = turns.flatMap((turn) => {
    const sounds = turn.content.filter((part) => part.clip).map((part) => `[${part.clip.name}]`);
    const heard = turn.understood ? [`(understood: ${turn.understood})`] : [];
    const question = [...sounds, ...(turn.text ? [turn.text] : []), ...heard].join(" ");
    return [`**You:** ${question}`, ...turn.answers.map((answer) => `**${answer.by}:** ${answer.text}`)];
  });
  return `${said.join("\n\n")}\n`;
}
