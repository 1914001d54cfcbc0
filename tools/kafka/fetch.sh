#!/bin/sh
# Fetch the libraries of Kafka's broker, which pom.xml pins, into FOLDER/libs. Usage: fetch.sh FOLDER.
set -eu
folder=$1
rm -rf "$folder.new"
mvn --quiet --batch-mode --file "$(dirname "$0")/pom.xml" dependency:copy-dependencies -DoutputDirectory="$folder.new/libs"
rm -rf "$folder"
mv "$folder.new" "$folder" # atomic and last: if the folder exists, it is complete
