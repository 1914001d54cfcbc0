"""The colours of figures, each with its counterpart for dark pages."""

# The palette of Okabe and Ito, which colour-blind readers can tell apart: for each tone a tint to write on
# and the full colour. The colour after the colon replaces it on dark pages.
TONES = {
    "plain": ("#f3f5f7:#21262d", "#6a737d:#8b949e"),
    "blue": ("#dcebf7:#12324a", "#0072b2:#56b4e9"),
    "orange": ("#fdf0d5:#40310f", "#b97f00:#e69f00"),
    "green": ("#d9f0e8:#0f3b2e", "#00855f:#2fbf95"),
    "purple": ("#f6e4ee:#43233a", "#b0568a:#dc8fb8"),
    "red": ("#fbe3d6:#4a2412", "#d55e00:#f0813c"),
}

INKS = ("#1f2328:#e6edf3", "#57606a:#9da7b3", "#d0d7de:#3d444d")

DARK = [pair.split(":") for pair in (*INKS, *(pair for tone in TONES.values() for pair in tone))]

INK, MUTED, FAINT = (pair[:7] for pair in INKS)

FILL_COLOURS = {"frame": "none"} | {tone: pair[0][:7] for tone, pair in TONES.items()}

LINE_COLOURS = {"frame": MUTED} | {tone: pair[1][:7] for tone, pair in TONES.items()}
