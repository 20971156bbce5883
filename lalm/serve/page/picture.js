// A recording as the model gets it, mono at 16 kHz, and its pictures: waveform and mel spectrogram.

export const RATE = 16000; // Hz
const SIZE = 512; // samples of one spectrum, 32 ms
const RANGE_DB = 70; // below the loudest point nothing is shown
const BARS = 160; // of the waveform
const COLOURS = [[8, 5, 20], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];

// A file or blob -> Float32Array of samples. Throws for what the browser cannot decode.
export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, RATE); // decodes to its own rate, whatever the file's
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    const samples = sound.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += samples[i] / sound.numberOfChannels;
  }
  return mono;
}

// The waveform as an SVG path of bars in a box 1000 wide and 100 high; the loudest bar fills it.
export function wavePath(mono) {
  const loud = new Float32Array(BARS);
  for (let i = 0; i < mono.length; i++) {
    const bar = Math.min(BARS - 1, Math.floor((i * BARS) / mono.length));
    loud[bar] = Math.max(loud[bar], Math.abs(mono[i]));
  }
  const top = Math.max(0.01, ...loud), pitch = 1000 / BARS;
  return Array.from(loud, (value, i) => {
    const half = Math.max(1, (48 * value) / top);
    return `M${(i * pitch).toFixed(2)} ${(50 - half).toFixed(1)}h${(pitch * 0.6).toFixed(2)}v${(2 * half).toFixed(1)}h-${(pitch * 0.6).toFixed(2)}z`;
  }).join("");
}

const turns = Array.from({ length: SIZE / 2 }, (_, k) => (-2 * Math.PI * k) / SIZE);
const cosines = turns.map(Math.cos), sines = turns.map(Math.sin);
const hann = Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
const places = Array.from({ length: SIZE }, (_, i) => parseInt(i.toString(2).padStart(9, "0").split("").reverse().join(""), 2));

// Powers of SIZE samples from `start`, at SIZE / 2 frequencies from 0 to below 8 kHz: a radix-2 FFT.
export function powers(mono, start) {
  const re = new Float64Array(SIZE), im = new Float64Array(SIZE);
  for (let i = 0; i < SIZE; i++) re[places[i]] = (mono[start + i] || 0) * hann[i];
  for (let half = 1; half < SIZE; half *= 2) {
    const stride = SIZE / (2 * half);
    for (let first = 0; first < SIZE; first += 2 * half) {
      for (let k = 0; k < half; k++) {
        const c = cosines[k * stride], s = sines[k * stride], a = first + k, b = a + half;
        const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x; im[b] = im[a] - y;
        re[a] += x; im[a] += y;
      }
    }
  }
  return Float64Array.from({ length: SIZE / 2 }, (_, k) => re[k] ** 2 + im[k] ** 2);
}

const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const hertz = (mels) => 700 * (10 ** (mels / 2595) - 1);

// Which powers make up each of `height` rows, the highest frequency first: [first, last] as fractions.
function rowsOf(height) {
  const edge = (row) => (hertz((mel(RATE / 2) * row) / height) * SIZE) / RATE;
  return Array.from({ length: height }, (_, y) => [edge(height - 1 - y), edge(height - y)]);
}

function rowPower(spectrum, [low, high]) {
  const first = Math.ceil(low), last = Math.min(spectrum.length - 1, Math.floor(high));
  if (first > last) { // a row narrower than the distance of two frequencies lies between them
    const below = Math.min(spectrum.length - 2, Math.floor(low)), part = (low + high) / 2 - below;
    return spectrum[below] * (1 - part) + spectrum[below + 1] * part;
  }
  let most = 0;
  for (let k = first; k <= last; k++) most = Math.max(most, spectrum[k]);
  return most;
}

// Draw the mel spectrogram over the whole canvas; of columns longer than a spectrum the loudest is shown.
export function drawSpectrogram(canvas, mono) {
  const { width, height } = canvas, rows = rowsOf(height), hop = mono.length / width;
  const many = Math.min(8, Math.max(1, Math.round(hop / (SIZE / 2)))), table = new Float64Array(width * height);
  let top = 1e-9;
  for (let x = 0; x < width; x++) {
    for (let n = 0; n < many; n++) {
      const spectrum = powers(mono, Math.round((x + (n + 0.5) / many) * hop - SIZE / 2));
      for (let y = 0; y < height; y++) {
        const at = y * width + x;
        table[at] = Math.max(table[at], rowPower(spectrum, rows[y]));
        top = Math.max(top, table[at]);
      }
    }
  }
  const pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
  table.forEach((power, i) => {
    const level = Math.min(1, Math.max(0, 1 + (10 * Math.log10((power + 1e-30) / top)) / RANGE_DB));
    const place = level * (COLOURS.length - 1), below = Math.min(COLOURS.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = COLOURS[below][c] + (place - below) * (COLOURS[below + 1][c] - COLOURS[below][c]);
    }
    image.data[4 * i + 3] = 255;
  });
  pen.putImageData(image, 0, 0);
}

// Samples at `rate` Hz -> a WAV blob of 16 bit.
export function wav(mono, rate = RATE) {
  const view = new DataView(new ArrayBuffer(44 + 2 * mono.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * mono.length, true);
  text(8, "WAVEfmt "); view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * mono.length, true);
  mono.forEach((value, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}
