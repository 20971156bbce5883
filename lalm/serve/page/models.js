// Who answers: the models of the server, one or two side by side, and the settings of a request.

import { served } from "./server.js";

const $ = (id) => document.getElementById(id);
const NOBODY = "";
export let limits = { audio_s: Infinity };
let choices = []; // {by, model, lora_scale: null or what it is turned to, trained: null or the trained scale}

// Ask the server what there is. Throws Refused.
export async function connect() {
  const { models, limits: told } = await served();
  limits = told;
  choices = models.flatMap(({ id, lalm }) => {
    const trained = lalm.lora_scale, one = { by: id, model: id, lora_scale: null, trained };
    return trained ? [one, { ...one, by: `${id}, LoRA off`, lora_scale: 0 }] : [one];
  });
  $("model").textContent = choices[0].model;
  fill($("first"), choices.map((one) => one.by));
  fill($("second"), [NOBODY, ...choices.map((one) => one.by)]);
  $("models").hidden = choices.length < 2;
  showChosen();
}

function fill(select, labels) {
  const before = select.value;
  select.replaceChildren(...labels.map((label) => new Option(label || "nobody", label)));
  if (labels.includes(before)) select.value = before;
}

const chosen = (select) => choices.find((one) => one.by === select.value);

// What follows from who is chosen: the LoRA scale goes with a first model that has LoRA.
export function showChosen() {
  const first = chosen($("first")), trained = first?.lora_scale === null ? first.trained : null;
  $("model").textContent = first?.model || $("model").textContent;
  $("lora-row").hidden = !trained;
  const slider = $("lora_scale");
  if (trained && Number(slider.defaultValue) !== trained) {
    Object.assign(slider, { max: 2 * trained, step: trained / 20, value: trained, defaultValue: trained });
  }
  showSettings();
}

// {by, options} of each that is to answer: the first, and the other if there is one.
export function answerers() {
  const first = chosen($("first")) || { by: "", model: "", lora_scale: null }, second = chosen($("second"));
  const made = [{ by: first.by, options: optionsFor(first, !$("lora-row").hidden) }];
  if (second && second.by !== first.by) made.push({ by: second.by, options: optionsFor(second, false) });
  return made;
}

// Settings, of which only what differs from the server's own is sent.
function optionsFor({ model, lora_scale: scale }, turned) {
  const wish = { model };
  for (const name of ["temperature", "top_p", "max_tokens", ...(turned ? ["lora_scale"] : [])]) {
    const input = $(name);
    if (Number(input.value) !== Number(input.defaultValue)) wish[name] = Number(input.value);
  }
  if (scale !== null) wish.lora_scale = scale;
  if ($("seed").value !== "" && wish.temperature) wish.seed = Number($("seed").value);
  return wish;
}

export function showSettings() {
  for (const input of document.querySelectorAll("#settings input[type=range]")) {
    const value = Number(input.value), at = value === Number(input.defaultValue);
    const special = { temperature: "always the likeliest", lora_scale: "as trained" }[input.id];
    const shown = `${+value.toFixed(2)}${at && special ? `, ${special}` : ""}`;
    input.parentElement.querySelector("output").textContent = shown;
    input.setAttribute("aria-valuetext", shown);
  }
}
