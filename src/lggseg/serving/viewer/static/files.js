// Files that are chosen or dropped, a folder's included, and what each of them is.

const NIFTI = /\.((nii|mgh)(\.gz)?|mgz)$/i;
const KNOWN = /\.(tiff?|(nii|mgh)(\.gz)?|mgz)$/i;

// The entries must be asked for before the first await: then the event has ended.
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader(), found = [];
  // A reader gives a hundred entries at a time.
  for (let some; (some = await new Promise((done, fail) => reader.readEntries(done, fail))).length; )
    found.push(...some);
  return (await Promise.all(found.map(filesOf))).flat();
}

// What can be sent: images alone, such as data.csv left out, unless nothing else is there. Hidden
// files are none: macOS puts a "._" twin beside each file on a disk that is not its own.
export function known(files) {
  const images = files.filter(({ name }) => KNOWN.test(name) && !name.startsWith("."));
  return images.length ? images : files;
}

export const needRoles = (files) => files.length > 1 && files.every(({ name }) => NIFTI.test(name));
