// Markdown of answers as elements. Every piece of text becomes a text node and no other elements exist than the
// ones made here, so nothing that a model writes is ever read as HTML.

const DEEPEST = 6; // lists and quotes in each other, and emphasis in emphasis
const FENCE = /^ {0,3}(`{3,}|~{3,})[^`]*$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*?)[ #]*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +(.*)|)$/;
const COLUMNS = /^ *\|? *:?-+:? *(\| *:?-+:? *)*\|? *$/;
const INLINE = [ // what may begin at a place, and what becomes of the match
  [/\\([!-/:-@[-`{-~])/y, ([, sign]) => sign],
  [/(`+)(?!`)([^]*?[^`])\1(?!`)/y, ([, , code]) => element("code", code.replace(/^ (.*) $/s, "$1"))],
  [/\*\*(?=\S)([^]*?\S)\*\*(?!\*)/y, ([, inner], depth) => filled("strong", inner, depth)],
  [/\*(?=[^\s*])([^]*?[^\s])\*(?!\*)/y, ([, inner], depth) => filled("em", inner, depth)],
  [/(?<!\w)__(?=\S)([^]*?\S)__(?!\w)/y, ([, inner], depth) => filled("strong", inner, depth)],
  [/(?<!\w)_(?=[^\s_])([^]*?[^\s])_(?!\w)/y, ([, inner], depth) => filled("em", inner, depth)],
  [/~~(?=\S)([^]*?\S)~~/y, ([, inner], depth) => filled("del", inner, depth)],
  [/!?\[([^\]\n]{1,500})\]\(([^\s()<>]{1,1000})(?: +"[^"\n]*")?\)/y, ([, text, to]) => link(text, to)],
  [/https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]*_]/y, ([to]) => link(to, to)],
];

// Markdown text -> a fragment of elements.
export function markdown(text) {
  const made = document.createDocumentFragment();
  addBlocks(made, text.replaceAll("\r\n", "\n").split("\n"), 0);
  return made;
}

function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function filled(name, text, depth) {
  const made = element(name);
  addInline(made, text, depth + 1);
  return made;
}

// Only pages of the web are linked to; anything else stays the text it is.
function link(text, to) {
  if (!/^https?:\/\//i.test(to) || !URL.canParse(to)) return `${text} (${to})`;
  return Object.assign(element("a", text), { href: to, title: to, target: "_blank", rel: "noopener noreferrer nofollow" });
}

function addInline(into, text, depth) {
  let plain = "";
  for (let at = 0; at < text.length;) {
    const found = depth < DEEPEST && /[\\`*_~![h]/.test(text[at]) ? matchAt(text, at) : null;
    if (found) {
      into.append(plain, found[1](found[0], depth));
      plain = "";
      at += found[0][0].length;
    } else {
      plain += text[at++];
    }
  }
  into.append(plain);
}

function matchAt(text, at) {
  for (const [pattern, make] of INLINE) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match) return [match, make];
  }
  return null;
}

const isBlank = (line) => !line.trim();
const indent = (line) => line.length - line.trimStart().length;
const beginsBlock = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));

function addBlocks(into, lines, depth) {
  let level = 2; // of the heading before: the page's own are 1 and 2, and none is skipped
  for (let at = 0; at < lines.length;) {
    const line = lines[at], heading = HEADING.exec(line), fence = FENCE.exec(line);
    if (isBlank(line)) {
      at++;
    } else if (fence) {
      const end = lines.findIndex((other, n) => n > at && other.trim().startsWith(fence[1]) && !other.trim().replaceAll(fence[1][0], ""));
      const last = end < 0 ? lines.length : end, code = element("pre");
      code.tabIndex = 0; // what is too wide can be scrolled with keys
      code.append(element("code", lines.slice(at + 1, last).join("\n")));
      into.append(code);
      at = last + 1;
    } else if (heading) {
      level = Math.min(6, heading[1].length + 2, level + 1);
      into.append(filled(`h${level}`, heading[2], 0));
      at++;
    } else if (RULE.test(line)) {
      into.append(element("hr"));
      at++;
    } else if (depth < DEEPEST && QUOTE.test(line)) {
      const end = endOf(lines, at, (other) => QUOTE.test(other)), quote = element("blockquote");
      addBlocks(quote, lines.slice(at, end).map((other) => other.replace(QUOTE, "")), depth + 1);
      into.append(quote);
      at = end;
    } else if (depth < DEEPEST && ITEM.test(line)) {
      at = addList(into, lines, at, depth);
    } else if (line.includes("|") && COLUMNS.test(lines[at + 1] || "") && cells(line).length === cells(lines[at + 1]).length) {
      const end = endOf(lines, at, (other) => other.includes("|"));
      into.append(table(lines.slice(at, end)));
      at = end;
    } else {
      const end = endOf(lines, at, (other) => !isBlank(other) && (depth >= DEEPEST || !beginsBlock(other)));
      into.append(filled("p", lines.slice(at, end).map((other) => other.trim()).join("\n"), 0));
      at = end;
    }
  }
}

// The first line after `at` that does not belong to what began there.
function endOf(lines, at, belongs) {
  const after = lines.findIndex((line, n) => n > at && !belongs(line));
  return after < 0 ? lines.length : after;
}

// Adds the list that begins at a line; the line after it.
function addList(into, lines, at, depth) {
  const [, margin, sign] = ITEM.exec(lines[at]), ordered = /\d/.test(sign), made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(sign, 10);
  for (;;) {
    const item = ITEM.exec(lines[at] || "");
    if (!item || /\d/.test(item[2]) !== ordered || item[1].length > margin.length + 1 || RULE.test(lines[at])) break;
    const own = [item[3] || ""], edge = item[1].length + 2;
    let next = at + 1;
    for (; next < lines.length; next++) {
      const line = lines[next], more = isBlank(line) ? lines.slice(next).find((other) => !isBlank(other)) : line;
      if (more === undefined) break;
      const inside = indent(more) >= edge, goesOn = !isBlank(line) && !isBlank(lines[next - 1]) && !beginsBlock(line);
      if (!inside && !goesOn) break;
      own.push(line.slice(Math.min(indent(line), item[1].length + item[2].length + 1)));
    }
    const entry = element("li");
    addBlocks(entry, own, depth + 1);
    made.append(entry);
    at = endOf(lines, next - 1, isBlank);
  }
  into.append(made);
  return at;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function table([head, , ...rows]) {
  const made = element("table"), place = element("div");
  for (const [line, name] of [[head, "th"], ...rows.map((row) => [row, "td"])]) {
    const row = made.insertRow();
    for (const cell of cells(line)) row.append(filled(name, cell, 0));
  }
  place.className = "wide";
  place.tabIndex = 0;
  place.append(made);
  return place;
}
