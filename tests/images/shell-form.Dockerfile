# fails: stops_cleanly
# says: It went on for 15 s after SIGTERM and was killed, with exit code 137 instead of exit code 0.
# Process 1 is a shell, which does not forward SIGTERM.
FROM research-agent:latest
CMD python main.py && echo "goodbye"
