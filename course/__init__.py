"""The course's own machinery: pages that run, exercises, figures, processes, engines."""
