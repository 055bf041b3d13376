// Blocks -> episodes, and elements for them. The parts of the viewer stand in one
// function, in the order read, turns, list. Every text is set as text, never as HTML;
// what cannot be seen is written out before it comes here.
const root = document.getElementById("viewer");
const data = document.getElementById("block-index");
const HUES = 7, PAGE = 60;
const [LOW, HIGH, SWITCH] = [1, 2, 4];
const ADVANTAGES = [["action", "advantage_low"], ["subgoal", "advantage_high"],
  ["switch", "advantage_switch"], ["response", "advantage"]];
const DECIDED = { switch: 1, said: 2, formed: 4, listed: 8, cut: 16 };

const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(
    new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
};

const blocks = new Map(), waiting = new Map();
window.hiperBlock = (step, text) => waiting.get(step)?.(text);
const packedText = (step, folder) => {
  if (!folder) return Promise.resolve(
    document.getElementById(`block-${step}`).textContent);
  return new Promise((resolve, reject) => {
    waiting.set(step, resolve);
    const script = document.createElement("script");
    script.onerror = () => reject(new Error(`${folder}/${step}.js is not there`));
    script.src = `${folder}/${step}.js`;
    document.head.append(script);
  });
};
const block = (step, folder) => {
  if (!blocks.has(step)) {
    if (blocks.size > 8) blocks.delete(blocks.keys().next().value);
    blocks.set(step, packedText(step, folder).then(unpack));
  }
  return blocks.get(step);
};

const places = (word) => Array.from(word, (c) => {
  const code = c.codePointAt(0);
  return (code < 0xe000 ? code : code - 0x800) - 0x5d;
});
const logProb = (place) => (place ? -Math.exp(place / 100) * 1e-7 : 0);
const number = (x) => {
  if (x === null || x === undefined) return "no number";
  return String(Math.round(x)/1000).replace("-", "−");
};
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const visible = (text) => text.replace(
  /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (c) => (c === "\n" || c === "\t") ? c
    : `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);

// The text of tokens; the bytes of a character that several make are put together.
const joined = (tokens) => {
  const decoder = new TextDecoder();
  let text = "", bytes = [];
  const flush = () => {
    if (bytes.length) text += visible(decoder.decode(Uint8Array.from(bytes)));
    bytes = [];
  };
  for (const [, piece, hex] of tokens) {
    if (hex === undefined) { flush(); text += piece; continue; }
    for (let i = 0; i < hex.length; i += 2) {
      bytes.push(parseInt(hex.slice(i, i + 2), 16));
    }
  }
  flush();
  return text;
};

const make = (tag, about = {}, ...inside) => {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (name === "style") {
      for (const [k, v] of Object.entries(value)) one.style.setProperty(k, v);
    } else if (name.startsWith("on")) {
      one.addEventListener(name.slice(2), value);
    } else if (value === true) one.setAttribute(name, "");
    else if (value !== false && value !== undefined) one.setAttribute(name, value);
  }
  one.append(...inside.filter((x) => x !== null && x !== undefined));
  return one;
};
const hue = (k) => ({ "--hue": `var(--hue${k % HUES})` });
const choice = (label, id, options) => make("label", {}, `${label} `,
  make("select", { id }, ...options.map(([value, text]) =>
    make("option", { value }, text))));
const amount = (label, id) => make("label", {}, `${label} `,
  make("input", { id, type: "number", min: 0, inputmode: "numeric" }));
const tick = (label, id) => make("label", { class: "tick" },
  make("input", { id, type: "checkbox" }), ` ${label}`);
