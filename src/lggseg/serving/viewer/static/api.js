// Questions to the server, and its answers. Paths are relative, so that a proxy's prefix is kept.

export async function ask(path, options) {
  let response;
  try {
    response = await fetch(`api/${path}`, options);
  } catch {
    throw new Error("The viewer does not answer. Is `lggseg view` still running?");
  }
  if (response.ok) return response.json();
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error ?? `The viewer answered with status ${response.status}. Try again.`);
}

export const casePath = (name) => `cases/${encodeURIComponent(name)}`;

// A NIfTI file of the three sequences, and the mask to save: null where there is no such kind.
export const volumeUrl = (name) => `api/${casePath(name)}/volume.nii`;
export const maskLink = (name, kind, level) =>
  ({ href: `api/${casePath(name)}/mask.${kind}?threshold=${level}`, download: "" });

// Files as one body: a line of JSON that lists them, then their bytes.
export function send(entries) {
  const list = entries.map(({ file, role }) => ({ name: file.name, size: file.size, role }));
  const body = new Blob([JSON.stringify(list), "\n", ...entries.map(({ file }) => file)]);
  const headers = { "Content-Type": "application/octet-stream" };
  return ask("cases", { method: "POST", headers, body });
}

// A mask's bits, in base64, as one byte a pixel.
export function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const pixels = new Uint8Array(8 * bytes.length);
  bytes.forEach((byte, place) => {
    for (let pixel = 8 * place; byte; pixel++, byte = (byte << 1) & 255) pixels[pixel] = byte >> 7;
  });
  return pixels;
}
