// What one can ask: questions to start from, and what the first screen shows.

export const STARTERS = {
  Describe: "What do you hear?",
  Transcribe: "Transcribe the speech word for word.",
  Translate: "Translate the speech into English.",
  Compare: "How do these recordings differ?",
};
export const HINTS = {
  ask: "What would you like to know?",
  find: "Name a sound, or several with commas between: bell, dog barking",
};
export const EXAMPLES = [
  { title: "Describe a sound", told: "A bird: what do you hear?", samples: ["bird.ogg"], question: STARTERS.Describe },
  { title: "Ask in your own words", told: "A train: is it arriving or leaving?", samples: ["train.ogg"], question: "Is the train arriving or leaving?" },
  { title: "Compare recordings", told: "A horse and water, in one question.", samples: ["horse.ogg", "water.ogg"], question: STARTERS.Compare },
  { title: "Find a sound", told: "When does the bell ring? Marked on its picture.", samples: ["bell.flac"], mode: "find", question: "bell" },
  { title: "Name by example", told: "A bird and a horse are named; what is the third?", samples: ["bird.ogg", "horse.ogg", "train.ogg"], labels: ["bird", "horse"], mode: "name" },
  { title: "Talk", told: "Hold a button and speak, or go hands-free.", voice: true },
];
