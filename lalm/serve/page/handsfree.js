// Hands-free voice chat over /v1/realtime: the server hears where a turn begins and ends, and who speaks
// while an answer is being written cuts it short. The conversation is the session's own.

import { Microphone } from "./microphone.js";
import { wav } from "./picture.js";
import { keyProtocol } from "./server.js";

const SENT_RATE = 24000; // Hz, OpenAI's audio/pcm
const KEPT_S = 120; // of what was said and is not yet a turn

// Samples at `rate` -> base64 of 16-bit PCM at 24 kHz; each sample is the mean over its time.
export function pcm(samples, rate) {
  const step = rate / SENT_RATE, out = new DataView(new ArrayBuffer(2 * Math.floor(samples.length / step)));
  for (let i = 0; 2 * i < out.byteLength; i++) {
    const first = Math.floor(i * step), last = Math.max(first + 1, Math.floor((i + 1) * step));
    let sum = 0;
    for (let k = first; k < last; k++) sum += samples[k];
    out.setInt16(2 * i, Math.max(-1, Math.min(1, sum / (last - first))) * 32767, true);
  }
  return btoa(String.fromCharCode(...new Uint8Array(out.buffer)));
}

export class HandsFree {
  // `page` hears: told(state), speaking(), turn(wav) when a spoken turn has ended, then answering() for each of its
  // answers, which gives a place for it, understood(turn, text), and ended(why) when all is over.
  static async start(level, options, page) {
    const place = new URL("v1/realtime", location.href);
    place.protocol = place.protocol.replace("http", "ws");
    place.searchParams.set("model", options.model);
    const made = Object.assign(new HandsFree(), { page, answer: null, began: 0, blocks: [], dropped: 0, items: new Map() });
    made.socket = new WebSocket(place, ["realtime", ...keyProtocol()]);
    await new Promise((open, fail) => {
      made.socket.onopen = open;
      made.socket.onerror = () => fail(new Error("The server takes no hands-free session now."));
    });
    made.socket.onmessage = ({ data }) => made.hear(JSON.parse(data));
    made.socket.onclose = () => made.stop("The connection ended.");
    made.send({ type: "session.update", session: { type: "realtime", ...options, model: undefined } });
    try {
      made.microphone = await Microphone.open(level, (samples, rate) => made.say(samples, rate));
    } catch (error) {
      made.stop();
      throw error;
    }
    page.told("Speak whenever you like.");
    return made;
  }

  send(event) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  // Samples of the microphone go to the server, and are kept so that a turn can be replayed.
  say(samples, rate) {
    this.rate = rate;
    this.send({ type: "input_audio_buffer.append", audio: pcm(samples, rate) });
    this.blocks.push(samples);
    while (this.blocks.length * samples.length > KEPT_S * rate) this.dropped += this.blocks.shift().length;
  }

  // What was said from `from` to `to`, in milliseconds of the session, as a WAV blob.
  said(from, to) {
    const all = new Float32Array(this.blocks.reduce((sum, block) => sum + block.length, 0));
    let at = 0;
    for (const block of this.blocks) { all.set(block, at); at += block.length; }
    const place = (ms) => Math.max(0, Math.round((ms / 1000) * this.rate) - this.dropped);
    return wav(all.subarray(place(from), place(to)), this.rate);
  }

  hear(event) {
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.began = event.audio_start_ms;
        this.page.speaking();
        this.page.told("Listening");
        break;
      case "input_audio_buffer.speech_stopped":
        this.page.told("Answering");
        this.items.set(event.item_id, this.page.turn(this.said(this.began, event.audio_end_ms)));
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.page.understood(this.items.get(event.item_id), event.transcript);
        break;
      case "conversation.item.input_audio_transcription.failed":
        this.page.told(event.error.message);
        break;
      case "response.created":
        this.answer = this.page.answering();
        break;
      case "response.output_text.delta":
        this.answer?.add(event.delta);
        break;
      case "response.done":
        this.finish(event.response.status);
        break;
      case "error":
        this.page.told(event.error.message);
    }
  }

  finish(status) {
    const { answer } = this;
    this.answer = null;
    if (!answer) return;
    const whole = status === "completed" || status === "incomplete"; // the latter: as long as it may be
    answer.end(whole);
    if (whole) this.page.told("Speak whenever you like.");
  }

  // Ends it; `why` is told if it was not asked for.
  stop(why = "") {
    this.socket.onclose = null;
    this.socket.close();
    this.microphone?.close();
    this.finish("cancelled");
    this.page.ended(why);
  }
}
