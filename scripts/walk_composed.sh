#!/usr/bin/env bash
# Walks through the composed system (docker compose up --build) as a person would: every command is
# printed with its answer, and what it has to answer is checked. Exit status 0: all of it was right.
#
#   scripts/walk_composed.sh                      everything
#   scripts/walk_composed.sh notifications        a part: system accounts notifications messages
#                                                 orders outages kills stops
set -euo pipefail
cd "$(dirname "$0")/.."

set -a
# shellcheck source=/dev/null
if [ -f .env ]; then . ./.env; fi
ACCOUNTS="http://127.0.0.1:${ACCOUNTS_API_PORT:-8001}"
NOTIFICATIONS="http://127.0.0.1:${NOTIFICATIONS_API_PORT:-8003}"
MESSAGES="http://127.0.0.1:${MESSAGES_API_PORT:-8004}"
ORDERS="http://127.0.0.1:${ORDERS_API_PORT:-8002}"
RABBITMQ="http://127.0.0.1:${RABBITMQ_UI_PORT:-15672}"
RABBITMQ_LOGIN="${RABBITMQ_DEFAULT_USER:-posthaste}:${RABBITMQ_DEFAULT_PASS:-posthaste-dev}"
PGADMIN="http://127.0.0.1:${PGADMIN_PORT:-5050}"
TOPIC=integration-events.message_sent
set +a

RUN=$(date +%s)
checks=0
wrong=()
answer=

# The commands as a person would type them.
psql() { echo "docker compose exec -T postgres psql --username posthaste $1 --command \"$2\""; }
count() { echo "docker compose exec -T postgres psql --username posthaste $1 --tuples-only --no-align --command \"$2\""; }
mysql() { echo "docker compose exec -T mysql sh -c 'MYSQL_PWD=\"\$MYSQL_PASSWORD\" mysql --user=\"\$MYSQL_USER\" \"\$MYSQL_DATABASE\" --execute=\"$1\"'"; }
kafka() { echo "docker compose exec -T kafka /opt/kafka/bin/$1.sh --bootstrap-server kafka:19092 ${*:2} 2>/dev/null"; }
publish() { # QUEUE BODY: by RabbitMQ's management interface
    local body=${2//\"/\\\"}
    echo "curl -s -u \"\$RABBITMQ_LOGIN\" $RABBITMQ/api/exchanges/%2F/amq.default/publish -d '{\"properties\":{},\"routing_key\":\"$1\",\"payload\":\"$body\",\"payload_encoding\":\"string\"}'"
}
peek() { # QUEUE: what waits there, left there
    echo "curl -s -u \"\$RABBITMQ_LOGIN\" $RABBITMQ/api/queues/%2F/$1/get -d '{\"count\":1000,\"ackmode\":\"ack_requeue_true\",\"encoding\":\"auto\"}'"
}
post() { echo "curl -s -w ' %{http_code}' -X POST $1 -H 'Content-Type: application/json' -d '$2'"; }

# check SECONDS WHAT PATTERN COMMAND: runs COMMAND until its answer matches PATTERN (extended regular
# expression), for SECONDS at most; 0 runs it once.
check() {
    local end=$((SECONDS + $1)) what=$2 pattern=$3 command=$4
    checks=$((checks + 1))
    printf '\n# %s\n$ %s\n' "$what" "$command"
    while :; do
        answer=$(bash -c "$command" 2>&1 </dev/null) || true
        if grep -Eq -- "$pattern" <<<"$answer"; then
            head -c 1500 <<<"$answer"
            return 0
        fi
        if [ "$SECONDS" -ge "$end" ]; then break; fi
        sleep 0.3
    done
    head -c 3000 <<<"$answer"
    printf 'WRONG: no match for %s\n' "$pattern"
    wrong+=("$what")
}

# What a member of the last answer says.
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$answer" | head -n 1; }

system() {
    local service
    check 120 "every container runs and is healthy" '^0$' \
        "docker compose ps --all --format '{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}' | grep -v '^migrate-.* exited  *0\$' | grep -cv ' running healthy'"
    check 0 "nothing is published beyond this machine" '^0$' \
        "docker compose ps --format '{{range .Publishers}}{{if .PublishedPort}}{{println .URL}}{{end}}{{end}}' | grep -v '^\$' | grep -cv '^127.0.0.1\$'"
    check 0 "not root, and nothing to write on" '10001:10001 true .*ALL' \
        "docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}' \$(docker compose ps --quiet notifications-api)"
    for service in "$ACCOUNTS" "$NOTIFICATIONS" "$MESSAGES" "$ORDERS"; do
        check 0 "who it is" '"docs":"/docs","health":"/health","service":"' "curl -s $service/"
        check 30 "health, measured" '"status":"ok".*"db":"connected".*"mq":"connected".* 200$' "curl -s -w ' %{http_code}' $service/health"
        check 0 "ready" '^200$' "curl -s -o /dev/null -w '%{http_code}' $service/readyz"
        check 0 "alive" '^200$' "curl -s -o /dev/null -w '%{http_code}' $service/livez"
        check 0 "its description" '"openapi":"3\.1' "curl -s $service/openapi.json | head -c 300"
        check 0 "the page to try it out" '^200$' "curl -s -o /dev/null -w '%{http_code}' $service/docs"
        check 0 "figures" 'posthaste_db_up.* 1' "curl -s $service/metrics | grep '^posthaste_' | head -n 5"
    done
    check 0 "RabbitMQ's page" '<title>RabbitMQ' "curl -s $RABBITMQ/ | head -n 12"
    check 0 "RabbitMQ's queues" 'notification_events' "curl -s -u \"\$RABBITMQ_LOGIN\" $RABBITMQ/api/queues | tr ',' '\n' | grep '\"name\"'"
    check 0 "pgAdmin's page" '^(200|302)$' "curl -s -o /dev/null -w '%{http_code}' $PGADMIN/"
    check 0 "Redis" PONG "docker compose exec -T redis redis-cli ping"
    check 0 "no password in what is shown of the settings" '^0$' \
        "docker compose exec -T orders-api posthaste config show | grep -c -e \"${RABBITMQ_LOGIN#*:}\" -e \"${MYSQL_PASSWORD:-posthaste-dev}\" -e \"${REDIS_PASSWORD:-posthaste-dev}\""
    check 0 "the schema" 'nothing to do|applied' "docker compose logs --no-log-prefix migrate-notifications"
}

accounts() {
    local email="ann-$RUN@example.com" password="correct horse battery $RUN" id token access cookie
    check 0 "a sign-up" '"status":"SUCCESS","message":"User onboarded successfully","verification":"PENDING".* 201$' \
        "$(post "$ACCOUNTS/signup" "{\"email\": \"$email\", \"first_name\": \"Ann\", \"last_name\": \"Smith\", \"password\": \"$password\"}")"
    id=$(member user_id)
    check 0 "seen at once" '"verification_state":"PENDING"' "curl -s $ACCOUNTS/users/$id"
    check 0 "the same address, in capitals" '"User already exists".* 409$' \
        "$(post "$ACCOUNTS/signup" "{\"email\": \"${email^^}\", \"first_name\": \"Ann\", \"last_name\": \"Smith\", \"password\": \"$password\"}")"
    check 20 "the mail" "verify-email#token=[A-Za-z0-9_-]{43}" \
        "docker compose exec -T accounts-worker sh -c 'cat \$(grep -l $email data/mail/*)'"
    token=$(sed -n 's/.*#token=\([A-Za-z0-9_-]*\).*/\1/p' <<<"$answer" | tail -n 1)
    check 0 "the address is hers" ' 204$' "$(post "$ACCOUNTS/api/v1/auth/verify-email" "{\"token\": \"$token\"}")"
    check 0 "the link a second time" ' 400$' "$(post "$ACCOUNTS/api/v1/auth/verify-email" "{\"token\": \"$token\"}")"
    check 0 "a login with a wrong password" ' 401$' \
        "$(post "$ACCOUNTS/api/v1/auth/login" "{\"email\": \"$email\", \"password\": \"not this one at all\"}")"
    check 0 "a login" 'HttpOnly.*"access_token":"[^"]+","token_type":"bearer".* 200$' \
        "$(post "$ACCOUNTS/api/v1/auth/login" "{\"email\": \"$email\", \"password\": \"$password\"}") -i | tr '\r\n' '  '"
    access=$(member access_token)
    cookie=$(sed -n 's/.*[Ss]et-[Cc]ookie: \([^;]*\);.*/\1/p' <<<"$answer")
    check 0 "who she is" "\"email\":\"$email\".* 200$" \
        "curl -s -w ' %{http_code}' $ACCOUNTS/api/v1/users/me -H 'Authorization: Bearer $access'"
    check 0 "a new access token" '"access_token":"[^"]+".* 200$' \
        "curl -s -w ' %{http_code}' -X POST $ACCOUNTS/api/v1/auth/refresh -H 'Cookie: $cookie' -H 'X-Requested-With: walk' -H 'Content-Type: application/json'"
    check 0 "logout" '^204$' \
        "curl -s -o /dev/null -w '%{http_code}' -X POST $ACCOUNTS/api/v1/auth/logout -H 'Authorization: Bearer $access' -H 'X-Requested-With: walk' -H 'Content-Type: application/json'"
    check 0 "the old token" ' 401$' \
        "curl -s -w ' %{http_code}' $ACCOUNTS/api/v1/users/me -H 'Authorization: Bearer $access'"
    check 0 "no password in the database" '^0$' "$(count accounts "SELECT COUNT(*) FROM users WHERE password_hash NOT LIKE '_argon2id_v=19_m=%'")"
    check 0 "the audit log" 'user.login' "$(psql accounts "SELECT at, action, actor, user_id, ip FROM audit_events ORDER BY at DESC LIMIT 10")"
}

notifications() {
    check 0 "an event" '"message":"Event published successfully","event_id":"[0-9a-f-]{36}".* 202$' \
        "$(post "$NOTIFICATIONS/api/events" '{"user_id": "550e8400-e29b-41d4-a716-446655440000", "event_type": "user_registered", "message": "Welcome!", "payload": {"email": "test@example.com"}}')"
    local id; id=$(member event_id)
    check 10 "what became of it" "\"id\":\"$id\".*\"status\":\"PROCESSED\"" "curl -s $NOTIFICATIONS/api/events/$id"
    check 0 "its row" "$id .*550e8400-e29b-41d4-a716-446655440000.*user_registered.*Welcome!.*PROCESSED" \
        "$(psql notifications "SELECT * FROM processed_events WHERE id = '$id'")"
    check 0 "the newest events of a user" '"items":\[\{"id"' "curl -s '$NOTIFICATIONS/api/events?user_id=550e8400-e29b-41d4-a716-446655440000&limit=2'"
    check 0 "invalid input is 400" 'application/problem\+json.* 400$' \
        "curl -s -w ' %{content_type} %{http_code}' -X POST $NOTIFICATIONS/api/events -H 'Content-Type: application/json' -d '{\"user_id\": \"no\"}'"
    check 0 "published by hand" '"routed":true' \
        "$(publish notification_events "{\"user_id\": \"550e8400-e29b-41d4-a716-446655440000\", \"event_type\": \"by_hand\", \"message\": \"hand $RUN\", \"payload\": null}")"
    check 10 "what became of it" '^1$' "$(count notifications "SELECT COUNT(*) FROM processed_events WHERE message = 'hand $RUN'")"
    check 0 "what cannot be read, by hand" '"routed":true' "$(publish notification_events "no event $RUN")"
    check 10 "is a dead letter at once" 'dead' \
        "$(psql notifications "SELECT message_id, status, error FROM inbox_messages WHERE status = 'dead' ORDER BY received_at DESC LIMIT 1")"
    check 0 "as the command line sees it" 'breaks the contract' "docker compose exec -T notifications-worker posthaste dead-letters list --service notifications"
    check 0 "the inbox" 'processed' \
        "$(psql notifications 'SELECT message_id, event_type, status, received_at, processed_at FROM inbox_messages ORDER BY received_at DESC LIMIT 10')"
}

messages() {
    check 0 "a message" '"success":true,"message":"Message sent to Kafka successfully".* 200$' \
        "$(post "$MESSAGES/api/v1/messages/send" "{\"content\": \"Hello $RUN\", \"sender\": \"alice-$RUN\", \"metadata\": {\"channel\": \"web\"}}")"
    local id; id=$(member message_id)
    check 15 "what became of it" "\"message_id\":\"$id\".*\"sender\":\"alice-$RUN\"" "curl -s $MESSAGES/api/v1/messages/$id"
    check 0 "the newest" '"success":true,"message":"Retrieved 1 messages"' "curl -s '$MESSAGES/api/v1/messages/?limit=1'"
    check 0 "of one sender" "\"content\":\"Hello $RUN\"" "curl -s $MESSAGES/api/v1/messages/sender/alice-$RUN"
    check 0 "too long is 422" ' 422$' "$(post "$MESSAGES/api/v1/messages/send" '{"content": "", "sender": "alice"}')"
    check 0 "unknown is 404" ' 404$' "curl -s -w ' %{http_code}' $MESSAGES/api/v1/messages/00000000-0000-4000-8000-000000000000"
    check 0 "its row" "$id .*alice-$RUN" "$(psql messages 'SELECT message_id, sender, content, timestamp, processed_at FROM messages ORDER BY timestamp DESC LIMIT 10')"
    check 5 "the outbox" "$id .*published" "$(psql messages 'SELECT event_id, event_type, status, created_at, published_at FROM outbox_messages ORDER BY created_at DESC LIMIT 10')"
    check 5 "the inbox" "$id .*processed" "$(psql messages 'SELECT message_id, event_type, status, received_at, processed_at FROM inbox_messages ORDER BY received_at DESC LIMIT 10')"
    check 0 "the topic, by Kafka's console consumer" "event_type:.*alice-$RUN.*\"event_type\":\"MessageSentIntegrationEvent\".*Hello $RUN" \
        "$(kafka kafka-console-consumer --topic "$TOPIC" --from-beginning --timeout-ms 8000 --property print.headers=true --property print.key=true) | grep $id"
    check 0 "another producer's message, by Kafka's console producer" '^sent$' \
        "echo 'bob-$RUN|{\"event_id\":\"hand-$RUN\",\"event_type\":\"MessageSentIntegrationEvent\",\"event_version\":\"1.0\",\"occurred_at\":\"2026-01-01T10:00:00+02:00\",\"correlation_id\":\"walk\",\"causation_id\":null,\"source_service\":\"walk\",\"payload\":{\"message_id\":\"$(cat /proc/sys/kernel/random/uuid)\",\"content\":\"by hand\",\"sender\":\"bob-$RUN\",\"timestamp\":\"2026-01-01T10:00:00+02:00\",\"metadata\":null},\"content_type\":\"application/json\",\"schema_version\":\"1.0\"}' | $(kafka kafka-console-producer --topic "$TOPIC" --property parse.key=true --property "'key.separator=|'") && echo sent"
    check 15 "is stored, its time in UTC" '"content":"by hand".*"timestamp":"2026-01-01T08:00:00' "curl -s $MESSAGES/api/v1/messages/sender/bob-$RUN"

    check 0 "how many rows" '^[0-9]+$' "$(count messages 'SELECT COUNT(*) FROM messages')"
    local rows=$answer
    docker compose stop messages-worker >/dev/null 2>&1
    check 60 "the group set back to the beginning, by Kafka's own tool" "$TOPIC +[0-9]+ +0" \
        "$(kafka kafka-consumer-groups --group "${KAFKA_CONSUMER_GROUP:-user-management-api-group}" --topic "$TOPIC" --reset-offsets --to-earliest --execute)"
    docker compose start messages-worker >/dev/null 2>&1
    check 60 "all is read again" '^0 left$' \
        "$(kafka kafka-consumer-groups --group "${KAFKA_CONSUMER_GROUP:-user-management-api-group}" --describe) | awk '\$2 == \"$TOPIC\" { left += \$6; rows += 1 } END { print (rows ? left : \"unknown\"), \"left\" }'"
    check 0 "and nothing is doubled" "^$rows\$" "$(count messages 'SELECT COUNT(*) FROM messages')"
}

orders() {
    local sample="{\"orderId\":\"order-$RUN\",\"userId\":\"user-456\",\"totalAmount\":99.99,\"idempotencyKey\":\"key-$RUN\",\"items\":[]}"
    check 0 "an order, published by hand" '"routed":true' "$(publish order_created_queue "$sample")"
    check 15 "what became of it" "\"orderId\":\"order-$RUN\".*\"status\":\"PROCESSED\"" "curl -s $ORDERS/api/v1/orders/order-$RUN"
    check 0 "its row" "order-$RUN.*user-456.*99.99.*PROCESSED" \
        "$(mysql "SELECT order_id, user_id, total_amount, status, idempotency_key FROM orders ORDER BY created_at DESC LIMIT 10")"
    check 10 "its outcome" "order-$RUN.*PROCESSED" "$(peek order_processed_queue)"
    check 15 "and what notifications made of it" "Order order-$RUN processed" "curl -s '$NOTIFICATIONS/api/events?limit=20'"
    check 0 "the same again" '"routed":true' "$(publish order_created_queue "$sample")"
    check 0 "an order by HTTP" '"status":"PENDING".* 202$' \
        "$(post "$ORDERS/api/v1/orders" "{\"userId\":\"user-$RUN\",\"totalAmount\":\"12.50\",\"idempotencyKey\":\"http-$RUN\",\"items\":[{\"sku\":\"a\"}]}")"
    local id; id=$(member orderId)
    check 15 "what became of it" "\"orderId\":\"$id\".*\"status\":\"PROCESSED\"" "curl -s $ORDERS/api/v1/orders/$id"
    check 0 "orders of a user" "\"orderId\":\"$id\"" "curl -s '$ORDERS/api/v1/orders?userId=user-$RUN'"
    check 0 "one row and one outcome of what was sent twice" '^1[[:space:]]+1$' \
        "$(mysql "SELECT (SELECT COUNT(*) FROM orders WHERE idempotency_key = \\\"key-$RUN\\\"), (SELECT COUNT(*) FROM outbox_messages WHERE aggregate_id = \\\"order-$RUN\\\" AND topic = \\\"order_processed_queue\\\")") | tail -n 1"
    check 0 "another key with a used id" '"routed":true' "$(publish order_created_queue "${sample/key-$RUN/other-$RUN}")"
    check 15 "fails, and the first order stays as it is" "order-$RUN.*ORDER_ID_CONFLICT|ORDER_ID_CONFLICT.*order-$RUN" "$(peek order_failed_queue)"
    check 0 "as it was" "\"status\":\"PROCESSED\"" "curl -s $ORDERS/api/v1/orders/order-$RUN"
    check 0 "no order at all" '"routed":true' "$(publish order_created_queue "no order $RUN")"
    check 15 "lands in order_dlq as it came" "no order $RUN" "$(peek order_dlq)"
    check 0 "an amount of three decimals is 422" ' 422$' \
        "$(post "$ORDERS/api/v1/orders" '{"userId":"u","totalAmount":"1.005","idempotencyKey":"k","items":[]}')"
}

outages() {
    local event
    docker compose stop rabbitmq >/dev/null 2>&1
    check 20 "RabbitMQ is away" '"mq":"disconnected".* 503$' "curl -s -w ' %{http_code}' $NOTIFICATIONS/health"
    check 0 "and requests are taken all the same" ' 202$' \
        "$(post "$NOTIFICATIONS/api/events" "{\"user_id\": \"550e8400-e29b-41d4-a716-446655440000\", \"event_type\": \"outage\", \"message\": \"no broker $RUN\"}")"
    event=$(member event_id)
    check 0 "as they are by orders" ' 202$' \
        "$(post "$ORDERS/api/v1/orders" "{\"orderId\":\"late-$RUN\",\"userId\":\"u\",\"totalAmount\":1,\"idempotencyKey\":\"late-$RUN\",\"items\":[]}")"
    docker compose start rabbitmq >/dev/null 2>&1
    check 90 "it comes back, and what was taken is processed" '"status":"PROCESSED"' "curl -s $NOTIFICATIONS/api/events/$event"
    check 90 "the order too" '"status":"PROCESSED"' "curl -s $ORDERS/api/v1/orders/late-$RUN"

    docker compose stop postgres >/dev/null 2>&1
    check 20 "PostgreSQL is away" '"db":"disconnected".* 503$' "curl -s -w ' %{http_code}' $NOTIFICATIONS/health"
    check 0 "notifications go to the broker" ' 202$' \
        "$(post "$NOTIFICATIONS/api/events" "{\"user_id\": \"550e8400-e29b-41d4-a716-446655440000\", \"event_type\": \"outage\", \"message\": \"no database $RUN\"}")"
    event=$(member event_id)
    check 0 "messages cannot be kept anywhere" '[Rr]etry-[Aa]fter:' \
        "curl -s -D - -o /dev/null -X POST $MESSAGES/api/v1/messages/send -H 'Content-Type: application/json' -d '{\"content\": \"c\", \"sender\": \"s\"}'"
    docker compose start postgres >/dev/null 2>&1
    check 90 "it comes back, and what was taken is processed" '"status":"PROCESSED"' "curl -s $NOTIFICATIONS/api/events/$event"

    docker compose stop kafka >/dev/null 2>&1
    check 15 "Kafka is away, PostgreSQL has just come back: messages are taken" ' 200$' \
        "$(post "$MESSAGES/api/v1/messages/send" "{\"content\": \"late $RUN\", \"sender\": \"late-$RUN\"}")"
    docker compose start kafka >/dev/null 2>&1
    check 120 "it comes back, and they are stored" "\"content\":\"late $RUN\"" "curl -s $MESSAGES/api/v1/messages/sender/late-$RUN"
}

kills() {
    local one="curl -s -o /dev/null -w '%{http_code}\\n' -X POST $MESSAGES/api/v1/messages/send -H 'Content-Type: application/json' -d '{\"content\": \"kill {}\", \"sender\": \"kill-$RUN\"}'"
    check 0 "300 messages while worker and relay are killed" '^ *300 200$' \
        "(seq 300 | xargs -P 4 -I '{}' sh -c \"${one//\"/\\\"}\" | sort | uniq -c) & docker compose kill --signal KILL messages-worker messages-relay >/dev/null 2>&1; wait"
    docker compose start messages-worker messages-relay >/dev/null 2>&1
    check 90 "each is stored once" '^ *300\|300$' \
        "$(count messages "SELECT COUNT(*), COUNT(DISTINCT content) FROM messages WHERE sender = 'kill-$RUN'")"
}

stops() {
    local service
    for service in notifications-api notifications-worker messages-relay orders-api orders-worker; do
        docker compose stop "$service" >/dev/null 2>&1
        check 0 "$service stops by itself" '^0$' \
            "docker inspect --format '{{.State.ExitCode}}' \$(docker compose ps --all --quiet $service)"
        docker compose start "$service" >/dev/null 2>&1
    done
    check 60 "every container runs and is healthy again" '^0$' \
        "docker compose ps --all --format '{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}' | grep -v '^migrate-.* exited  *0\$' | grep -cv ' running healthy'"
}

for part in "${@:-all}"; do
    case $part in
        all) for each in system accounts notifications messages orders outages kills stops; do printf '\n== %s\n' "$each"; "$each"; done ;;
        system | accounts | notifications | messages | orders | outages | kills | stops) printf '\n== %s\n' "$part"; "$part" ;;
        *) echo "no part $part"; exit 2 ;;
    esac
done

printf '\n%s checks, %s wrong\n' "$checks" "${#wrong[@]}"
if [ "${#wrong[@]}" -ne 0 ]; then
    printf ' - %s\n' "${wrong[@]}"
    exit 1
fi
