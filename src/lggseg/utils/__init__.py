"""What every step uses: errors, files that are whole or absent, paths, checksums, threads,
progress."""
