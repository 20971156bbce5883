// Hands-free voice chat over /v1/realtime: the server hears where a turn begins and ends, and who speaks
// while an answer is being written cuts it short. The conversation is the session's own.

import { showAnswer, showQuestion } from "./conversation.js";
import { Microphone } from "./microphone.js";
import { keyProtocol } from "./server.js";

const SENT_RATE = 24000; // Hz, OpenAI's audio/pcm

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
  // `told(state)` hears what goes on, `answered(text)` each whole answer, `ended(why)` that it is over.
  static async start(level, options, { told, answered, ended, speaking }) {
    const place = new URL("v1/realtime", location.href);
    place.protocol = place.protocol.replace("http", "ws");
    const made = Object.assign(new HandsFree(), { told, answered, ended, speaking, answer: null, began: 0 });
    made.socket = new WebSocket(place, ["realtime", ...keyProtocol()]);
    await new Promise((open, fail) => {
      made.socket.onopen = open;
      made.socket.onerror = () => fail(new Error("The server takes no hands-free session now."));
    });
    made.socket.onmessage = ({ data }) => made.hear(JSON.parse(data));
    made.socket.onclose = () => made.stop("The connection ended.");
    made.send({ type: "session.update", session: { type: "realtime", ...options } });
    try {
      made.microphone = await Microphone.open(level, (samples, rate) => {
        made.send({ type: "input_audio_buffer.append", audio: pcm(samples, rate) });
      });
    } catch (error) {
      made.stop();
      throw error;
    }
    told("Speak whenever you like.");
    return made;
  }

  send(event) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  hear(event) {
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.began = event.audio_start_ms;
        this.speaking();
        this.told("Listening");
        break;
      case "input_audio_buffer.speech_stopped":
        this.told("Answering");
        showQuestion([], `spoken, ${((event.audio_end_ms - this.began) / 1000).toFixed(1)} s`);
        break;
      case "response.created":
        this.answer = showAnswer();
        break;
      case "response.output_text.delta":
        this.answer?.add(event.delta);
        break;
      case "response.done":
        this.finish(event.response.status);
        break;
      case "error":
        this.told(event.error.message);
    }
  }

  finish(status) {
    const { answer } = this;
    this.answer = null;
    if (!answer) return;
    if (!answer.text) return answer.remove();
    const whole = status === "completed" || status === "incomplete"; // the latter: as long as it may be
    answer.finish(whole ? "" : "cut short", { Copy: () => answer.text });
    if (!whole) return;
    this.told("Speak whenever you like.");
    this.answered(answer.text);
  }

  // Ends it; `why` is told if it was not asked for.
  stop(why = "") {
    this.socket.onclose = null;
    this.socket.close();
    this.microphone?.close();
    this.finish("cancelled");
    this.ended(why);
  }
}
