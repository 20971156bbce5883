// The microphone: its level, its samples as they come, and recordings of it.

import { RATE, wav } from "./picture.js";

// Browsers give the microphone to pages from https or this very machine only.
export const canRecord = Boolean(navigator.mediaDevices && window.AudioWorkletNode);

export class Microphone {
  // Opens it; `hear(samples, rate)` gets blocks of Float32 samples, `level` (role meter) shows how loud they are.
  static async open(level, hear) {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    } catch (error) {
      const why = { NotAllowedError: "it is not allowed", NotFoundError: "there is none" }[error.name];
      throw new Error(`The microphone cannot be used: ${why || error.message}.`);
    }
    const context = new AudioContext();
    await context.audioWorklet.addModule("page/capture.js");
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    capture.port.onmessage = ({ data }) => { show(level, data); hear(data, context.sampleRate); };
    context.createMediaStreamSource(stream).connect(capture);
    await context.resume();
    const made = new Microphone();
    Object.assign(made, { stream, context, level });
    return made;
  }

  // Switches it off.
  close() {
    for (const track of this.stream.getTracks()) track.stop();
    this.context.close();
    show(this.level, []);
  }
}

function show(level, samples) {
  let power = 0;
  for (const value of samples) power += value * value;
  const loud = samples.length ? 10 * Math.log10(power / samples.length + 1e-9) : -90; // dB
  const share = Math.min(1, Math.max(0, (loud + 60) / 55));
  level.firstElementChild.style.transform = `scaleX(${share})`;
  level.setAttribute("aria-valuenow", Math.round(100 * share));
}

export class Recording {
  static async start(level) {
    const made = new Recording();
    made.blocks = [];
    made.microphone = await Microphone.open(level, (block, rate) => { made.blocks.push(block); made.rate = rate; });
    return made;
  }

  // Seconds so far.
  get seconds() {
    return this.blocks.reduce((sum, block) => sum + block.length, 0) / (this.rate || 1);
  }

  // Ends it; a WAV blob of what was recorded, at 16 kHz.
  async stop() {
    const { seconds } = this;
    this.microphone.close();
    if (!seconds) return new Blob([]);
    const context = new OfflineAudioContext(1, Math.ceil(seconds * RATE), RATE);
    const whole = context.createBuffer(1, Math.round(seconds * this.rate), this.rate);
    let at = 0;
    for (const block of this.blocks) { whole.copyToChannel(block, 0, at); at += block.length; }
    const source = context.createBufferSource();
    source.buffer = whole;
    source.connect(context.destination);
    source.start();
    return wav((await context.startRendering()).getChannelData(0));
  }
}
