// Voice chat: a spoken turn is a recording that is sent when it ends, or hands-free a session of its own;
// answers may be read aloud.

import { bareClip, hush } from "./clips.js";
import { HandsFree } from "./handsfree.js";
import { Recording } from "./microphone.js";

const TAP_MS = 350; // a shorter press begins a turn that the next press ends
const SHORTEST_S = 0.3;
const $ = (id) => document.getElementById(id);

// `page` has what voice needs of the rest: converse(clips, text), tell(text), busy(), stop(), options().
export function openVoice(page) {
  let session = null, recording = null, opening = null, pressed = 0, turn = 0;
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
    const answer = await page.converse([bareClip(file, `spoken-${++turn}.wav`)], "");
    state(answer ? "Your turn." : "");
    if (answer && $("aloud").checked) speak(answer);
  }

  async function switchHandsFree() {
    const { temperature, top_p, seed, lora_scale, max_tokens } = page.options();
    const options = { temperature, top_p, seed, lora_scale, max_output_tokens: max_tokens };
    if (!$("hands-free").checked) return session?.stop();
    page.tell("");
    hold.disabled = true;
    try {
      session = await HandsFree.start($("voice-level"), options, {
        told: state,
        speaking: silence,
        answered: (text) => { if ($("aloud").checked) speak(text); },
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
