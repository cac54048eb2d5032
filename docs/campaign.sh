#!/bin/sh
# A campaign through the API alone: import a file, make a template and a campaign, send it, follow it to its end.
#
#   URL=http://127.0.0.1:8080 KEY=en_… docs/campaign.sh contacts.csv 'Hello {{ first_name | default("you") }}'
#
# Needs curl and a key with the role sender. Every step is a request of docs/api.md.
set -eu

file=$1
text=$2
: "${URL:?the address of the API}" "${KEY:?an API key}"

work=$(mktemp -d)
follower=
trap 'rm -rf "$work"; [ -z "$follower" ] || kill "$follower" 2>/dev/null || true' EXIT

# ask METHOD PATH [curl's options]: prints the body; a refusal is printed too and ends the script.
ask() {
  method=$1 path=$2
  shift 2
  status=$(curl -sS -o "$work/answer" -w '%{http_code}' -X "$method" "$URL/api$path" \
    -H "authorization: Bearer $KEY" "$@")
  cat "$work/answer"
  case $status in 2*) ;; *) echo >&2; echo "$method $path: $status $(cat "$work/answer")" >&2; exit 1 ;; esac
}

# The first value of a field in a JSON text. For a program, use a JSON parser.
field() {
  grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4
}

json_text() {
  printf '"%s"' "$(printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

# 1. The file goes up as it is; the answer says how its columns would be read.
import=$(ask POST "/contacts/imports?file_name=$(basename "$file")" -H 'content-type: text/csv' --data-binary "@$file")
import_id=$(printf '%s' "$import" | field id)
echo "import $import_id uploaded"

# 2. Started with the words people agreed to, which are kept.
ask POST "/contacts/imports/$import_id/start" -H 'content-type: application/json' -d '{
  "on_match": "skip",
  "consent": {
    "wording": "Send me offers by text message and email.",
    "source": "sign-up form",
    "date": "2026-01-01T00:00:00Z"
  }
}' >"$work/started"

# 3. A worker reads it; what was refused stands in /contacts/imports/{id}/errors.
while :; do
  import=$(ask GET "/contacts/imports/$import_id")
  case $(printf '%s' "$import" | field status) in
    completed) break ;;
    failed | cancelled) echo "the import ended: $import" >&2; exit 1 ;;
  esac
  sleep 0.2
done
echo "import completed: $(printf '%s' "$import" | grep -o '"counts":{[^}]*}')"

# 4. What is said. A variable without a fall-back that somebody lacks would skip them: preview first.
template=$(ask POST /templates -H 'content-type: application/json' \
  -d "{\"name\": \"Template $import_id\", \"channel\": \"sms\", \"body\": $(json_text "$text")}")
template_id=$(printf '%s' "$template" | field id)
ask POST "/templates/$template_id/preview" -H 'content-type: application/json' \
  -d "{\"import_id\": \"$import_id\"}" >"$work/preview"
echo "preview: $(grep -o '"variables":\[[^]]*\]' "$work/preview")"

# 5. To whom. Nothing is sent yet.
campaign=$(ask POST /campaigns -H 'content-type: application/json' -d "{
  \"name\": \"Campaign $import_id\",
  \"template_id\": \"$template_id\",
  \"audience\": {\"kind\": \"import\", \"import_id\": \"$import_id\"}
}")
campaign_id=$(printf '%s' "$campaign" | field id)

# 6. Followed from before it starts: each event is a whole snapshot.
mkfifo "$work/events"
curl -sSN "$URL/api/campaigns/$campaign_id/sse" -H "authorization: Bearer $KEY" >"$work/events" &
follower=$!

ask POST "/campaigns/$campaign_id/send" >"$work/sent"
echo "campaign $campaign_id is on its way"

while read -r line; do
  case $line in
    data:*) echo "${line#data: }" ;;
    *) continue ;;
  esac
  case $line in
    *'"status":"completed"'*) exit 0 ;;
    *'"status":"failed"'* | *'"status":"cancelled"'*) exit 1 ;;
  esac
done <"$work/events"
echo 'the stream ended before the campaign' >&2
exit 1
