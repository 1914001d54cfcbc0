# fails: answers_a_question
# says: POST /v1/research gives status 404: ...
# What depends on an answer is then not checked, where `make audit` is not told ROUTE=/ask.
FROM research-agent:latest
USER 0
RUN sed -i 's#/v1/research#/ask#' app/api.py && python -m compileall -q -f --invalidation-mode unchecked-hash app
USER 10001:10001
