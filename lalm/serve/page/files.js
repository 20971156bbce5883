// What a file is by its first bytes: whatever is plainly no recording is refused before anything else is done.

const KINDS = [ // the first bytes as Latin-1, and what such a file is
  ["%PDF", "a PDF document"], ["PK\x03\x04", "a ZIP archive or an office document"], ["\x1f\x8b", "a compressed archive"],
  ["7z\xbc\xaf", "an archive"], ["Rar!", "an archive"], ["\x89PNG", "a picture"], ["\xff\xd8\xff", "a picture"],
  ["GIF8", "a picture"], ["II*\0", "a picture"], ["MM\0*", "a picture"], ["\x7fELF", "a program"], ["MZ", "a program"],
  ["SQLite", "a database"], ["\xd0\xcf\x11\xe0", "an office document"],
];
const LOOK = 8192; // bytes

// The reason why a file or blob is no recording, as the end of a sentence, or "".
export async function notSound(file) {
  const bytes = new Uint8Array(await file.slice(0, LOOK).arrayBuffer());
  const start = String.fromCharCode(...bytes.subarray(0, 16));
  const kind = KINDS.find(([begin]) => start.startsWith(begin));
  if (kind) return kind[1];
  if (/^RIFF....WEBP/s.test(start) || /^....ftyp(avif|heic|mif1)/s.test(start)) return "a picture";
  return isText(bytes) ? "text" : "";
}

// Whether bytes are text: UTF-8, or UTF-16 with its mark, without control characters.
export function isText(bytes) {
  const [first, second] = bytes, wide = { 0xfffe: "utf-16le", 0xfeff: "utf-16be" }[first * 256 + second];
  let text;
  try {
    text = new TextDecoder(wide || "utf-8", { fatal: true }).decode(bytes, { stream: true });
  } catch {
    return false;
  }
  return !/[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(text);
}
