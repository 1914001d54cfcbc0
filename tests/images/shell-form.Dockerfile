# fails: stops_cleanly
# Process 1 is a shell, which does not pass SIGTERM on.
FROM research-agent:latest
CMD python main.py && echo "goodbye"
