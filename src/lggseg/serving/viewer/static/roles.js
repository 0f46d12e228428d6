// Which sequence a NIfTI file is, guessed by the words of its name; the reader may correct it. The
// same rules as lggseg/data/sequences.py, which a test compares.

export const ROLES = ["FLAIR", "pre-contrast", "post-contrast"];

// What says nothing of the sequence: whose scan it is and on which grid (BIDS: space-T1w_FLAIR),
// when it was taken, how it was processed, and the scan that it was brought to (t1_to_flair).
const ASIDE = [
  /(^|[_.\s])(sub|ses|space|desc|run|rec|res|dir|from|to|hemi|label)-[a-z0-9+]+/g,
  /(pre|post)[_\-.\s]?(op|proc|treat|surg|resect|biops|radio|chemo|rt(?![a-z]))[a-z]*/g,
  /[_\-.\s](to|in|on|onto|2|reg2?|registered|coreg)[_\-.\s]?(t[12]\w*|flair)(?![a-z]).*$/g,
];
// What is no scan, whatever else its name says.
const MASK = /(?<![a-z])(mask|d?seg|segmentation|labels?|lesions?|roi|truth|gt|prob(seg)?)\d*(?![a-z])/;
const FLAIR = /flair|t2f(?![a-z])|dark.?fluid|tirm/;
const OTHERS = /t2|swi|adc|dwi|diff|perf|asl|mask|seg/;
const PLAIN = new Set(["pre", "non", "no", "un", "without", "wo", "native", "plain", "n"]);
const CONTRAST = new Set([
  "post", "contrast", "ce", "c+", "+c", "gd", "gad", "gado", "gadolinium", "g", "km", "enh", "enhanced",
]);
const T1 = new Set(["t1", "mprage", "mpr", "spgr", "bravo", "vibe"]);

function wordsOf(text) {
  return text
    .replace(/t1w?[_\-.\s]?c(?![a-z])/g, " t1 contrast ")
    .replace(/t1w?(?!\d)/g, " t1 ")
    .replace(/(pre|post|non|no|un|without)(?=contrast|gd|gad|enh|ce(?![a-z]))/g, "$1 ")
    .split(/[^a-z0-9+]+/);
}

export function guessRole(name) {
  let text = name.toLowerCase().replace(/\.((nii|mgh|hdr|img)(\.gz)?|mgz)$/, "");
  for (const pattern of ASIDE) text = text.replace(pattern, " ");
  if (MASK.test(text)) return "";
  if (FLAIR.test(text) && !/t1w?[_\-.\s]?flair/.test(text)) return "FLAIR";
  const words = wordsOf(text), some = (known) => words.some((word) => known.has(word));
  if (!some(T1) && OTHERS.test(text)) return "";
  if (some(PLAIN)) return "pre-contrast";
  if (some(CONTRAST)) return "post-contrast";
  return some(T1) ? "pre-contrast" : "";
}
