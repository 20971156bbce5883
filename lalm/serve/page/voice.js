// Voice chat: a spoken turn is a recording that is sent when it ends, or hands-free a session of its own;
// answers may be read aloud.

import { beginAnswer, begin as beginTurn } from "./asking.js";
import { bareClip, hush } from "./clips.js";
import { turns } from "./conversation.js";
import { HandsFree } from "./handsfree.js";
import { Recording } from "./microphone.js";
import { transcribe } from "./server.js";
import { showUnderstood } from "./turns.js";

const TAP_MS = 350; // a shorter press begins a turn that the next press ends
const SHORTEST_S = 0.3;
const $ = (id) => document.getElementById(id);

// The next spoken turn as a recording of the conversation.
function spoken(file) {
  const before = turns.flatMap(({ content }) => content.map(({ clip }) => Number(clip?.name.match(/^spoken-(\d+)/)?.[1] || 0)));
  return Object.assign(bareClip(file, `spoken-${Math.max(0, ...before) + 1}.wav`), { recorded: true });
}

// Tell under a turn what was understood.
function understood(turn, text) {
  if (!turn) return;
  turn.understood = text || "no speech";
  showUnderstood(turn);
  document.dispatchEvent(new Event("conversation"));
}

// `page` has what voice needs of the rest: converse(clips, text, begun), tell(text), busy(), stop(), options().
export function openVoice(page) {
  let session = null, recording = null, opening = null, pressed = 0;
  const state = (text) => { $("voice-state").textContent = text; };

  function silence() {
    hush();
    window.speechSynthesis?.cancel();
  }

  function show(on) {
    $("hold").setAttribute("aria-pressed", String(on));
    $("hold").textContent = on ? "Listening" : "Hold to talk";
  }

  async function begin() {
    if (recording || opening) return;
    page.stop(); // who speaks interrupts the answer
    silence();
    show(true);
    state("Speak now.");
    try {
      opening = Recording.start($("voice-level"));
      recording = await opening;
    } catch (error) {
      show(false);
      state("");
      page.tell(error.message);
    }
    opening = null;
  }

  async function end() {
    if (opening) await opening.catch(() => {});
    const ended = recording;
    recording = null;
    show(false);
    if (!ended) return;
    const { seconds } = ended, file = await ended.stop();
    if (seconds < SHORTEST_S) return state("That was too short to hear: hold the button while you speak.");
    state("Answering");
    while (page.busy()) await new Promise((done) => setTimeout(done, 50)); // the interrupted answer lets go
    const clip = spoken(file), tells = $("understood").checked, { model } = page.options();
    const turn = await page.converse([clip], "", (begun) => {
      if (tells) transcribe(clip, model).then((text) => understood(begun, text), (error) => page.tell(error.message));
    });
    state(turn ? "Your turn." : "");
    if (turn && $("aloud").checked) speak(turn.answers[0].text);
  }

  async function switchHandsFree() {
    const { model, temperature, top_p, seed, lora_scale, max_tokens } = page.options();
    const options = { model, temperature, top_p, seed, lora_scale, max_output_tokens: max_tokens };
    if ($("understood").checked) options.audio = { input: { transcription: {} } };
    if (!$("hands-free").checked) return session?.stop();
    page.tell("");
    hold.disabled = true;
    let turn = null;
    try {
      session = await HandsFree.start($("voice-level"), options, {
        told: state,
        speaking: silence,
        turn: (file) => (turn = beginTurn("ask", [{ clip: spoken(file) }], "")),
        answering: () => beginAnswer(turn, page.options(), (text) => { if ($("aloud").checked) speak(text); }),
        understood,
        ended: (why) => { session = null; rest(why); },
      });
    } catch (error) {
      rest(error.message);
    }
  }

  function rest(why) {
    $("hands-free").checked = hold.disabled = false;
    state("");
    if (why) page.tell(why);
  }

  function press() {
    if (recording || opening) { pressed = 0; end(); } else { pressed = performance.now(); begin(); }
  }

  function release() {
    if (pressed && performance.now() - pressed > TAP_MS) end();
    pressed = 0;
  }

  const hold = $("hold");
  hold.onpointerdown = (event) => { hold.setPointerCapture(event.pointerId); press(); };
  hold.onpointerup = hold.onpointercancel = release;
  hold.oncontextmenu = (event) => event.preventDefault(); // a long press of a finger
  hold.onkeydown = (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    if (!event.repeat) press();
  };
  hold.onkeyup = (event) => { if (event.key === " " || event.key === "Enter") release(); };
  hold.onclick = (event) => { if (event.detail === 0 && !event.pointerType) press(); }; // by assistive technology
  $("hands-free").onchange = switchHandsFree;
  $("aloud").onchange = () => { if (!$("aloud").checked) silence(); };
  $("aloud").parentElement.hidden = !window.speechSynthesis;
  $("voice-open").onclick = () => {
    const open = $("voice").hidden;
    $("voice").hidden = !open;
    $("voice-open").setAttribute("aria-expanded", String(open));
    if (open) hold.focus();
    else { recording?.microphone.close(); recording = null; session?.stop(); show(false); silence(); }
  };
}

// Reads text with a voice of this machine; voices of the network are left alone.
function speak(text) {
  const voice = speechSynthesis.getVoices().find((one) => one.localService && one.lang.startsWith("en"));
  const said = new SpeechSynthesisUtterance(text);
  if (voice) said.voice = voice;
  if (voice || speechSynthesis.getVoices().every((one) => one.localService)) speechSynthesis.speak(said);
}
